/** Whether there is an NVIDIA driver on this machine, without loading anything. */
export async function hasNvidiaDriver(): Promise<boolean> {
  try {
    await Deno.stat("/dev/nvidiactl");
    return true;
  } catch {
    return false; // also where reading it is not permitted
  }
}
