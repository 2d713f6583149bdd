/**
 * Says what is wrong with a machine, or with a job's environment, before
 * anybody trains on it:
 *
 * `deno run -A jsr:@atomloss/atomloss/doctor`
 *
 * It looks at compiler, toolkit, driver, cache, devices, interfaces and the
 * variables of launchers, computes losses whose values are known on every
 * device, and lets two replicas add up. `--json` prints the same for programs.
 * The exit code is 0 if training would work, otherwise 1.
 *
 * @module
 */
import config from "./deno.json" with { type: "json" };
import {
  checkDevice,
  checkReplicas,
  describeLibrary,
} from "./doctor/devices.ts";
import { find, type Finding } from "./doctor/finding.ts";
import { describeInterfaces, describePlace } from "./doctor/job.ts";
import { describePermissions } from "./doctor/permissions.ts";
import {
  describeCache,
  describeCompiler,
  describeDriver,
  describeToolkit,
} from "./doctor/toolchain.ts";
import { Device } from "./tensor/device.ts";

export type { Finding };

/** What {@linkcode diagnose} finds. */
export interface Diagnosis {
  /** Whether training would work: nothing has failed. */
  readonly ok: boolean;
  /** Versions of this package and of Deno, system and processor. */
  readonly system: string;
  /** What was looked at, in its order. */
  readonly findings: readonly Finding[];
}

/**
 * Looks at this machine and at the environment of this process. The first time
 * it compiles the native libraries, as `Device.open` does. A machine without a
 * GPU is fine; every GPU that its driver shows must work.
 *
 * @example
 * ```ts ignore
 * import { diagnose } from "@atomloss/atomloss/doctor";
 *
 * const { ok, findings } = await diagnose();
 * console.log(ok, findings.filter(({ state }) => state === "failed"));
 * ```
 */
export async function diagnose(): Promise<Diagnosis> {
  const findings: Finding[] = [];
  const look = async (...args: Parameters<typeof find>): Promise<boolean> => {
    const finding = await find(...args);
    findings.push(finding);
    return finding.state === "ok";
  };
  const lookAt = async (backend: "cpu" | "cuda"): Promise<void> => {
    if (!await look(`${backend} library`, () => describeLibrary(backend))) {
      return;
    }
    let works = true;
    for (let i = 0; i < await Device.count(backend); i++) {
      const device = backend === "cpu" ? "cpu" : `cuda:${i}`;
      works = await look(device, () => checkDevice(device)) && works;
    }
    if (works) await look(`${backend} replicas`, () => checkReplicas(backend));
  };

  await look("permissions", describePermissions, "note");
  await look("launcher", describePlace);
  await look("interfaces", describeInterfaces, "note");
  // Notes: a library that is prebuilt needs neither.
  await look("compiler", describeCompiler, "note");
  await look("cache", describeCache, "note");
  await lookAt("cpu");
  const hasGpu = await look("driver", describeDriver, "note");
  await look("toolkit", describeToolkit, "note");
  if (hasGpu) await lookAt("cuda");

  return {
    ok: findings.every(({ state }) => state !== "failed"),
    system:
      `atomloss ${config.version}, Deno ${Deno.version.deno}, ${Deno.build.target}`,
    findings,
  };
}

const MARKS = { ok: "ok", note: "-", failed: "FAILED" };

/** The same for people. */
function format({ ok, system, findings }: Diagnosis): string {
  const width = Math.max(...findings.map(({ name }) => name.length));
  const lines = findings.map(({ name, state, text }) =>
    `${MARKS[state].padEnd(6)}  ${name.padEnd(width)}  ${
      text.replaceAll("\n", `\n${" ".repeat(width + 10)}`)
    }`
  );
  const failed = findings.filter(({ state }) => state === "failed")
    .map(({ name }) => name);
  const verdict = ok
    ? "training works here"
    : `training would fail here: ${failed.join(", ")}`;
  return [system, ...lines, verdict].join("\n");
}

if (import.meta.main) {
  const unknown = Deno.args.find((option) => option !== "--json");
  if (unknown !== undefined) {
    console.error("usage: deno run -A doctor.ts [--json]");
    Deno.exit(2);
  }
  const diagnosis = await diagnose();
  console.log(
    Deno.args.includes("--json")
      ? JSON.stringify(diagnosis, null, 2)
      : format(diagnosis),
  );
  Deno.exit(diagnosis.ok ? 0 : 1);
}
