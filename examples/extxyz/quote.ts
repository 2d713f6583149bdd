/** A text of a file as an error message shows it: on one line and not too long. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? text.slice(0, 60) + "…" : text);
}
