import type { CreateWorkshop } from "../api/types";

/** The create form as typed: every field a string. */
export interface WorkshopForm {
  name: string;
  seats: string;
  runtime: string;
  image: string;
  env: { name: string; value: string }[];
  duration: string;
  memory: string;
  vcpus: string;
  disk: string;
  autostart: boolean;
}

export type Field = "name" | "seats" | "runtime" | "image" | "env" | "duration" | "memory" | "vcpus" | "disk";
export type Problems = Partial<Record<Field, string>>;

export const blank: WorkshopForm = {
  name: "",
  seats: "10",
  runtime: "",
  image: "",
  env: [],
  duration: "",
  memory: "",
  vcpus: "",
  disk: "",
  autostart: true,
};

const MAX_ENV = 64;
const MAX_ENV_VALUE = 8192;

/** The request for a form, or what is wrong with it, field by field. */
export function readForm(form: WorkshopForm): { ok: true; body: CreateWorkshop } | { ok: false; problems: Problems } {
  const problems: Problems = {};
  const name = form.name.trim();
  if (name === "") problems.name = "Give the workshop a name.";
  else if ([...name].length > 100) problems.name = `At most 100 characters; this has ${[...name].length}.`;
  else if (/\p{Cc}/u.test(name)) problems.name = "No control characters, please.";

  const number = (field: Field, text: string, least: number, most: number): number | undefined => {
    if (text.trim() === "") return undefined;
    const value = Number(text);
    if (!Number.isInteger(value) || value < least || value > most) {
      problems[field] = `A whole number from ${least} to ${most}.`;
      return undefined;
    }
    return value;
  };
  const seats = number("seats", form.seats, 1, 500);
  if (seats === undefined && !problems.seats) problems.seats = "How many seats? 1 to 500.";
  const duration = number("duration", form.duration, 1, 43_200);
  const memory = number("memory", form.memory, 64, 65_536);
  const vcpus = number("vcpus", form.vcpus, 1, 64);
  const disk = number("disk", form.disk, 256, 1_048_576);
  if (form.image.trim().length > 255) problems.image = "At most 255 characters.";

  const env: Record<string, string> = {};
  const pairs = form.env.filter((pair) => pair.name.trim() !== "" || pair.value !== "");
  if (pairs.length > MAX_ENV) problems.env = `At most ${MAX_ENV} variables.`;
  for (const pair of pairs) {
    const key = pair.name.trim();
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) problems.env = `“${key}” is not a variable name: letters, digits and _, not beginning with a digit.`;
    else if (Object.hasOwn(env, key)) problems.env = `${key} is there twice.`;
    else if (new TextEncoder().encode(pair.value).length > MAX_ENV_VALUE) problems.env = `The value of ${key} is over 8 KiB.`;
    else env[key] = pair.value;
  }

  if (Object.keys(problems).length > 0 || seats === undefined) return { ok: false, problems };
  const body: CreateWorkshop = { name, seats };
  if (form.runtime !== "") body.runtime = form.runtime;
  if (form.image.trim() !== "") body.image = form.image.trim();
  if (Object.keys(env).length > 0) body.env = env;
  if (memory !== undefined) body.memory_mb = memory;
  if (vcpus !== undefined) body.vcpus = vcpus;
  if (disk !== undefined) body.disk_mb = disk;
  if (duration !== undefined) body.duration_minutes = duration;
  if (!form.autostart) body.autostart = false;
  return { ok: true, body };
}

const MENTIONS: [RegExp, Field][] = [
  [/\bname\b/, "name"],
  [/\bseats\b/, "seats"],
  [/\bruntime\b/, "runtime"],
  [/\bimage\b/, "image"],
  [/\benv\b/, "env"],
  [/\bmemory(_mb)?\b/, "memory"],
  [/\bvcpus\b/, "vcpus"],
  [/\bdisk(_mb)?\b/, "disk"],
  [/\b(duration_minutes|ends_at)\b/, "duration"],
];

/** The field that a refusal of the server is about: the first one its sentence names. */
export function fieldOf(code: string, message: string): Field | null {
  if (code === "IMAGE_NOT_FOUND") return "image";
  if (code === "NO_RUNTIME") return "runtime";
  const found = MENTIONS.map(([pattern, field]) => ({ at: message.search(pattern), field })).filter(({ at }) => at >= 0);
  found.sort((a, b) => a.at - b.at);
  return found[0]?.field ?? null;
}
