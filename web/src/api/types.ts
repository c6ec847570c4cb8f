/**
 * Wire types of the server's HTTP API: what `/api/openapi.json` describes. Times are RFC 3339 strings in UTC.
 */

/** Codes that the page treats specially; the server may send others. */
export type ErrorCode =
  | "UNAUTHORIZED"
  | "FORBIDDEN"
  | "NOT_FOUND"
  | "NOT_RUNNING"
  | "NO_SEATS"
  | "JOINING_LOCKED"
  | "ENDED"
  | "CONFLICT"
  | "INVALID_FIELD"
  | "TOO_MANY_ATTEMPTS"
  | "SEAT_UNREACHABLE"
  /** Made here: the server did not answer. */
  | "NETWORK"
  | (string & {});

export type SessionState = "ready" | "waiting" | "unreachable" | "ended";

export interface JoinRequest {
  code: string;
  name?: string;
  session_code?: string;
  client_id?: string;
}

export interface Joined {
  status: SessionState;
  token: string;
  endpoint: string;
  seat: number;
  workshop_id: string;
  workshop_name: string;
  session_code: string;
  name: string | null;
  expires_at: string;
  ends_at: string | null;
  returning: boolean;
}

export interface WaitingInLine {
  status: "waiting";
  place: number;
  session_code: string;
  workshop_id: string;
  workshop_name: string;
  name: string | null;
}

export interface SessionView {
  status: SessionState;
  token?: string;
  expires_at?: string;
  endpoint?: string;
  seat?: number;
  place?: number;
  reason?: string;
  name: string | null;
  workshop_id: string;
  workshop_name: string;
  ends_at: string | null;
}

export interface WhoAmI {
  user_id: string;
  name: string;
  admin: boolean;
  login_required: boolean;
}

export type WorkshopStatus =
  | "created"
  | "provisioning"
  | "running"
  | "stopping"
  | "stopped"
  | "deleting"
  | "error"
  | (string & {});

export type SeatStatus =
  | "pending"
  | "starting"
  | "ready"
  | "occupied"
  | "unreachable"
  | "failed"
  | (string & {});

export interface SeatCounts {
  pending: number;
  starting: number;
  ready: number;
  occupied: number;
  unreachable: number;
  failed: number;
}

export interface WorkshopView {
  id: string;
  name: string;
  join_code: string;
  join_url: string;
  status: WorkshopStatus;
  reason_code: string | null;
  reason: string | null;
  seats: number;
  seat_counts: SeatCounts;
  waiting: number;
  runtime: string;
  warnings: string[];
  image: string;
  env_names: string[];
  memory_mb: number;
  vcpus: number;
  disk_mb: number;
  locked: boolean;
  owner_id: string;
  created_at: string;
  ends_at: string | null;
  progress: string | null;
}

export interface CreateWorkshop {
  name: string;
  seats: number;
  runtime?: string;
  image?: string;
  env?: Record<string, string>;
  memory_mb?: number;
  vcpus?: number;
  disk_mb?: number;
  ends_at?: string;
  duration_minutes?: number;
  autostart?: boolean;
}

export interface SeatView {
  seat: number;
  status: SeatStatus;
  reason_code: string | null;
  reason: string | null;
  generation: number;
  learner: string | null;
  joined_at: string | null;
  last_seen_at: string | null;
  connected: boolean;
}

export interface SeatToken {
  token: string;
  endpoint: string;
  expires_at: string;
}

export interface RuntimeView {
  runtime: string;
  available: boolean;
  capacity: number;
  used: number;
  warnings: string[];
  default: boolean;
}

export interface AdminOverview {
  version: string;
  uptime_seconds: number;
  workshops: number;
  running_workshops: number;
  seats: number;
  ready_seats: number;
  learners: number;
  waiting: number;
  vms: number;
  workers: number;
  usable_workers: number;
  runtimes: RuntimeView[];
}

export interface AdminVm {
  workshop_id: string;
  seat_id: number;
  generation: number;
  runtime: string;
  worker: string | null;
  status: string;
  reason: string | null;
  address: string | null;
  handle: string | null;
}

export interface WorkerView {
  id: string;
  address: string;
  source: string;
  state: string;
  wish: string;
  kind: string | null;
  version: string | null;
  seats: number;
  capacity: number;
  free_memory_mb: number | null;
  last_seen_at: string | null;
  takes_seats: boolean;
  problem: string | null;
  public_url: string | null;
}

export interface UserView {
  id: string;
  name: string;
  created_at: string;
}
