import { describe, expect, it } from "vitest";
import { blank, fieldOf, readForm } from "../src/instructor/workshopform";
import { seatLine, statusLine } from "../src/instructor/words";
import type { SeatView, WorkshopView } from "../src/api/types";

const form = { ...blank, name: "Intro" };
const problems = (part: Partial<typeof blank>) => {
  const read = readForm({ ...form, ...part });
  return read.ok ? {} : read.problems;
};

describe("the create form", () => {
  it("sends only what was filled in", () => {
    expect(readForm({ ...form, name: " Intro ", seats: "3" })).toEqual({ ok: true, body: { name: "Intro", seats: 3 } });
  });

  it("sends all of it", () => {
    const read = readForm({
      name: "A", seats: "2", runtime: "docker", image: " alpine ", duration: "90", memory: "256", vcpus: "1", disk: "1024", autostart: false,
      env: [{ name: "API_KEY", value: "x=1" }, { name: "", value: "" }],
    });
    expect(read).toEqual({
      ok: true,
      body: { name: "A", seats: 2, runtime: "docker", image: "alpine", duration_minutes: 90, memory_mb: 256, vcpus: 1, disk_mb: 1024, autostart: false, env: { API_KEY: "x=1" } },
    });
  });

  it.each([
    ["name", { name: "  " }],
    ["name", { name: "x".repeat(101) }],
    ["name", { name: "a\tb" }],
    ["seats", { seats: "" }],
    ["seats", { seats: "0" }],
    ["seats", { seats: "501" }],
    ["seats", { seats: "2.5" }],
    ["duration", { duration: "-1" }],
    ["memory", { memory: "63" }],
    ["env", { env: [{ name: "1A", value: "" }] }],
    ["env", { env: [{ name: "A", value: "" }, { name: "A", value: "2" }] }],
    ["env", { env: [{ name: "", value: "x" }] }],
    ["env", { env: [{ name: "A", value: "x".repeat(8193) }] }],
  ])("complains about %s", (field, part) => expect(Object.keys(problems(part))).toEqual([field]));

  it("finds the field of a refusal", () => {
    expect(fieldOf("INVALID_FIELD", "seats must be from 1 to 500.")).toBe("seats");
    expect(fieldOf("IMAGE_NOT_FOUND", "There is no image nope.")).toBe("image");
    expect(fieldOf("INVALID_FIELD", "memory_mb must be at least 64.")).toBe("memory");
    expect(fieldOf("INTERNAL", "Something broke.")).toBeNull();
  });
});

describe("words", () => {
  const counts = { pending: 0, starting: 2, ready: 1, occupied: 0, unreachable: 0, failed: 0 };
  const workshop = (part: Partial<WorkshopView>) => ({ status: "provisioning", seats: 3, seat_counts: counts, ...part }) as WorkshopView;

  it("count what is there and no more", () => {
    expect(statusLine(workshop({}))).toBe("Making the seats: 1 of 3 ready");
    expect(statusLine(workshop({ status: "running", seat_counts: { ...counts, occupied: 1 } }))).toBe("Running: 1 of 3 taken, 2 ready");
    expect(statusLine(workshop({ status: "paused" }))).toBe("paused");
  });

  it("tell a learner at work from one who is away", () => {
    const running = { status: "running" } as WorkshopView;
    expect(seatLine({ status: "occupied", connected: true } as SeatView, running)).toBe("Working");
    expect(seatLine({ status: "occupied", connected: false } as SeatView, running)).toContain("not connected");
    const pending = (status: string) => seatLine({ status: "pending" } as SeatView, { status } as WorkshopView);
    expect(pending("provisioning")).toBe("Waiting to be made");
    expect(pending("stopping")).toBe("Being removed");
    expect(pending("stopped")).toBe("Not there");
  });
});
