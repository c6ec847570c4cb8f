import type { TerminalInfo } from "../seat/terminals";

/** The open terminal tabs of a seat and which is in front. */
export interface Tabs {
  ids: number[];
  active: number | null;
}

/** Takes the seat's list into account: new ones appear, vanished ones go; tabs shown as exited here stay until closed. */
export function merge(tabs: Tabs, list: TerminalInfo[], preferred: number | null = null): Tabs {
  const listed = list.map((terminal) => terminal.id);
  const ids = [...tabs.ids.filter((id) => listed.includes(id) || id === tabs.active), ...listed.filter((id) => !tabs.ids.includes(id))];
  const active = tabs.active ?? (preferred !== null && ids.includes(preferred) ? preferred : (ids[0] ?? null));
  return { ids, active };
}

export function added(tabs: Tabs, id: number): Tabs {
  return { ids: tabs.ids.includes(id) ? tabs.ids : [...tabs.ids, id], active: id };
}

/** Without `id`; its neighbour comes to the front. */
export function closed(tabs: Tabs, id: number): Tabs {
  const index = tabs.ids.indexOf(id);
  const ids = tabs.ids.filter((other) => other !== id);
  const active = tabs.active === id ? (ids[Math.min(index, ids.length - 1)] ?? null) : tabs.active;
  return { ids, active };
}
