export * from "./cells";
export * from "./floats";
export * from "./exact";
export * from "./range";

// Where memory that the caller manages begins.
export function heapBase(): usize {
  return __heap_base;
}
