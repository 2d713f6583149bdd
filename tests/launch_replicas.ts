/** Starts a script on several replicas by launch.ts and waits for it. */

/** What the job left. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const ROOT = new URL("../", import.meta.url).pathname;

/** Runs `launch.ts --nproc-per-node n script args`, from the package's root. */
export async function launchReplicas(
  n: number,
  script: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<Finished> {
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "launch.ts",
      "--nproc-per-node",
      String(n),
      script,
      ...args,
    ],
    cwd: ROOT,
    // Tests of one machine may have more replicas than GPUs.
    env: { ATOMLOSS_SHARE_GPU: "1", ...env },
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}
