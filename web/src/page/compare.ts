// Two images or more in, the project's viewer with its divider out.

export interface Version {
  label: string;
  codec: string;
  mime: string;
  bytes: number; // of the file that is compared
  bpp: string;
  figures: [string, string][];
  data: Uint8Array; // what the browser shows
}

export interface Comparison {
  name: string;
  versions: Version[]; // the original first
}

/** Shows a comparison in the frame, which is loaded anew. */
export function compare(frame: HTMLIFrameElement, comparison: Comparison): Promise<void> {
  return new Promise((resolve) => {
    const listen = ({ data, source }: MessageEvent): void => {
      if (source !== frame.contentWindow || data !== "viewer ready") return;
      removeEventListener("message", listen);
      frame.contentWindow!.postMessage(comparison, location.origin);
      resolve();
    };
    addEventListener("message", listen);
    frame.src = "viewer.html";
  });
}
