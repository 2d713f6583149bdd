/** Whether there is an NVIDIA driver on this machine, without loading anything. */

/** Why no GPU can be used; undefined if there is a driver. */
export async function whyNoGpu(): Promise<string | undefined> {
  try {
    await Deno.stat("/dev/nvidiactl");
    return undefined;
  } catch (error) {
    // Deno lets nobody look at devices who may not do everything.
    return error instanceof Deno.errors.NotCapable
      ? 'without --allow-all, "auto" may not look for a GPU; "cuda" uses it'
      : "there is no NVIDIA driver";
  }
}
