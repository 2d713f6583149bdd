/** The launcher's options: what they are, what they may be, and the command line. */
import { parseArgs } from "@std/cli/parse-args";
import { LaunchError } from "../errors.ts";

/** What `launch` starts. */
export interface LaunchOptions {
  /**
   * Replicas on this host: a number, or one for each of its GPUs (`"gpu"`) or
   * processors (`"cpu"`), or `"auto"`: GPUs if it has any, otherwise processors.
   */
  nprocPerNode: number | "auto" | "gpu" | "cpu";
  /** Hosts of the job. Default: 1. */
  nnodes?: number;
  /** Number of this host, from 0. Default: 0. */
  nodeRank?: number;
  /** Address of host 0. Default: 127.0.0.1, for a job on one host. */
  masterAddr?: string;
  /** Free port of host 0. Default: any free one for a job on one host, otherwise 29500. */
  masterPort?: number;
  /** How often the job is started again after a replica has failed. Default: 0. */
  maxRestarts?: number;
  /**
   * Folder for what replicas print, `attempt_0/rank_3.log`. Default: none, it
   * goes to the terminal.
   */
  logDir?: string;
  /** Whether it goes to the terminal as well as to `logDir`. Default: false. */
  tee?: boolean;
  /** Deno's permission flags for the replicas. Default: `--allow-all`. */
  permissions?: readonly string[];
  /** Script to run in every replica. */
  script: string;
  /** Its arguments. */
  args?: readonly string[];
}

/** torch's default port. */
export const DEFAULT_PORT = 29500;

/** What the command prints for --help. */
export const USAGE =
  `usage: deno run -A launch.ts [options] script.ts [arguments]

  --nproc-per-node N   replicas on this host: a number, gpu, cpu or auto
  --standalone         a job on this host alone (the default)
  --nnodes M           hosts of the job (default 1)
  --node-rank R        number of this host, from 0 (default 0)
  --master-addr A      address of host 0 (default 127.0.0.1 on one host)
  --master-port P      free port of host 0 (default: any on one host, otherwise ${DEFAULT_PORT})

  --max-restarts N     start again so often when a replica fails (default 0)
  --log-dir DIR        what replicas print goes to DIR/attempt_A/rank_R.log
  --tee                and to the terminal too

  --allow-…, --deny-…  permissions of the replicas, as Deno has them
                       (default --allow-all)

For several hosts set ATOMLOSS_SECRET to the same secret on all of them.`;

/** Throws for options that cannot be right; what they miss can be found out when starting. */
export function checkOptions(options: LaunchOptions): void {
  const { nprocPerNode, nnodes = 1, nodeRank = 0, masterPort = 1 } = options;
  const { maxRestarts = 0, logDir, tee = false } = options;
  const check = (
    name: string,
    value: number,
    min: number,
    max: number,
  ): void => {
    if (Number.isInteger(value) && value >= min && value <= max) return;
    throw new LaunchError(
      `--${name} is ${value}, expected an integer of at least ${min}` +
        (max === Infinity ? "" : ` and at most ${max}`),
    );
  };
  if (typeof nprocPerNode === "number") {
    check("nproc-per-node", nprocPerNode, 1, Infinity);
  } else if (!["auto", "gpu", "cpu"].includes(nprocPerNode)) {
    throw new LaunchError(
      `--nproc-per-node is '${nprocPerNode}', expected an integer of at least 1, or gpu, cpu or auto`,
    );
  }
  check("nnodes", nnodes, 1, Infinity);
  check("node-rank", nodeRank, 0, nnodes - 1);
  check("master-port", masterPort, 1, 65535);
  check("max-restarts", maxRestarts, 0, Infinity);
  if (nnodes > 1 && options.masterAddr === undefined) {
    throw new LaunchError(
      "--nnodes above 1 needs --master-addr, the address of host 0",
    );
  }
  if (tee && logDir === undefined) {
    throw new LaunchError("--tee needs --log-dir, the folder to write to");
  }
}

/** An option's value as an integer. */
function integerOption(
  name: string,
  text: string | undefined,
  min: number,
): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text) || Number(text) < min) {
    throw new LaunchError(
      `--${name} is '${text}', expected an integer of at least ${min}`,
    );
  }
  return Number(text);
}

/** Options of this command that take a value. */
const VALUED = [
  "nproc-per-node",
  "nnodes",
  "node-rank",
  "master-addr",
  "master-port",
  "max-restarts",
  "log-dir",
];

/**
 * Takes Deno's permission flags out of the options before the script. They have
 * their value behind a "=" or none, which parseArgs cannot be told.
 */
function takePermissions(
  argv: readonly string[],
): { permissions: string[]; others: string[] } {
  const permissions: string[] = [];
  const others: string[] = [];
  let i = 0;
  for (; argv[i]?.startsWith("-"); i++) {
    const option = argv[i]!;
    if (/^--(allow|deny)-/.test(option)) {
      permissions.push(option);
      continue;
    }
    others.push(option);
    const takesNext = VALUED.includes(option.slice(2).replaceAll("_", "-"));
    if (takesNext && i + 1 < argv.length) others.push(argv[++i]!);
  }
  return { permissions, others: [...others, ...argv.slice(i)] };
}

/**
 * Options from the command line; undefined for --help. torchrun's spelling with
 * underscores is fine.
 *
 * @throws {LaunchError} if it makes no sense.
 */
export function parseOptions(
  argv: readonly string[],
): LaunchOptions | undefined {
  const { permissions, others } = takePermissions(argv);
  const unknown: string[] = [];
  const parsed = parseArgs(others, {
    string: VALUED,
    boolean: ["help", "standalone", "tee"],
    alias: Object.fromEntries(
      VALUED.filter((name) => name.includes("-"))
        .map((name) => [name, name.replaceAll("-", "_")]),
    ),
    stopEarly: true,
    unknown: (arg: string) => {
      if (arg.startsWith("-")) unknown.push(arg);
    },
  });
  if (parsed.help) return undefined;
  if (unknown.length > 0) {
    throw new LaunchError(`${unknown[0]} is not an option`);
  }
  const [script, ...args] = parsed._.map(String);
  const text = (name: string): string | undefined =>
    parsed[name] as string | undefined;
  const number = (name: string, min: number): number | undefined =>
    integerOption(name, text(name), min);
  const count = text("nproc-per-node");
  const isWord = count === "auto" || count === "gpu" || count === "cpu";
  const nprocPerNode = isWord ? count : number("nproc-per-node", 1);
  if (nprocPerNode === undefined) {
    throw new LaunchError("--nproc-per-node is missing");
  }
  if (script === undefined) throw new LaunchError("the script is missing");
  for (const name of ["nnodes", "node-rank", "master-addr", "master-port"]) {
    if (parsed.standalone && text(name) !== undefined) {
      throw new LaunchError(
        `--standalone is a job on this host alone: it goes without --${name}`,
      );
    }
  }
  const given = {
    nnodes: number("nnodes", 1),
    nodeRank: number("node-rank", 0),
    masterAddr: text("master-addr"),
    masterPort: number("master-port", 1),
    maxRestarts: number("max-restarts", 0),
    logDir: text("log-dir"),
    tee: Boolean(parsed.tee),
    permissions: permissions.length === 0 ? undefined : permissions,
  };
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  return { nprocPerNode, script, args, ...Object.fromEntries(set) };
}
