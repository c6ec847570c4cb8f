import type { SeatView, WorkshopView } from "../api/types";

/** How a workshop is, in words that claim no more than the server knows. */
export function statusLine(workshop: WorkshopView): string {
  const { seat_counts: counts, seats } = workshop;
  const there = counts.ready + counts.occupied;
  switch (workshop.status) {
    case "created":
      return "Not started";
    case "provisioning":
      return `Making the seats: ${there} of ${seats} ready`;
    case "running":
      return `Running: ${counts.occupied} of ${seats} taken${there < seats ? `, ${there} ready` : ""}`;
    case "stopping":
      return "Stopping: removing the environments";
    case "stopped":
      return "Stopped";
    case "deleting":
      return "Deleting: removing everything";
    case "error":
      return "Nothing could be made";
    default:
      return workshop.status;
  }
}

/** Whether there are seats, or some on their way. */
export function isMade(workshop: WorkshopView): boolean {
  return workshop.status !== "created" && workshop.status !== "stopped";
}

/** A seat's state in words. */
export function seatLine(seat: SeatView, workshop: WorkshopView): string {
  switch (seat.status) {
    case "pending":
      if (workshop.status === "stopping" || workshop.status === "deleting") return "Being removed";
      return isMade(workshop) ? "Waiting to be made" : "Not there";
    case "starting":
      return "Starting";
    case "ready":
      return "Free";
    case "occupied":
      return seat.connected ? "Working" : "Taken, not connected";
    case "unreachable":
      return "Does not answer";
    case "failed":
      return "Failed";
    default:
      return seat.status;
  }
}

/** The class of colour for a status. */
export function tone(status: string): "good" | "busy" | "bad" | "idle" {
  if (status === "running" || status === "occupied") return "good";
  if (status === "error" || status === "failed" || status === "unreachable") return "bad";
  if (status === "provisioning" || status === "starting" || status === "stopping" || status === "deleting") return "busy";
  return "idle";
}
