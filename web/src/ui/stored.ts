import { useState } from "preact/hooks";

/** Reads a value that this browser keeps; `fallback` when there is none or storage is closed to us. */
export function load<T>(key: string, fallback: T): T {
  try {
    const text = localStorage.getItem(key);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

export function store(key: string, value: unknown): void {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Full or closed: the page works without memory.
  }
}

/** State that this browser keeps. */
export function useStored<T>(key: string, fallback: T): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => load(key, fallback));
  return [
    value,
    (next) => {
      setValue(next);
      store(key, next);
    },
  ];
}
