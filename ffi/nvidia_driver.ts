/**
 * The NVIDIA driver of this machine, asked directly: libcuda.so.1 comes with it,
 * and every CUDA program talks to it.
 */
import { DeviceError } from "../errors.ts";
import { decodeText } from "./pointer.ts";

/** The functions that tell what there is. None takes memory of a GPU. */
const FUNCTIONS = {
  // Looks for the GPUs, for seconds where there are many.
  cuInit: { parameters: ["u32"], result: "i32", nonblocking: true },
  cuDriverGetVersion: { parameters: ["buffer"], result: "i32" },
  cuDeviceGetCount: { parameters: ["buffer"], result: "i32" },
  cuDeviceGet: { parameters: ["buffer", "i32"], result: "i32" },
  cuDeviceGetName: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  cuDeviceGetAttribute: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  cuGetErrorString: { parameters: ["i32", "buffer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

type Functions = Deno.DynamicLibrary<typeof FUNCTIONS>["symbols"];

/** CUdevice_attribute: the two numbers of the compute capability. */
const CAPABILITY = [75, 76];

/** Eight GPUs without NVIDIA's persistence daemon take 20 s. */
const LIMIT_MS = 60_000;

const NAME_CAPACITY = 256;

/** A GPU that this process may use. */
export interface Gpu {
  readonly name: string;
  /** Its compute capability: `"9.0"`. */
  readonly capability: string;
}

/** What a driver that works says. */
export interface Driver {
  /** The newest version of CUDA that it runs: `"13.0"`. */
  readonly version: string;
  /** One at least, in the order of their ordinals. */
  readonly gpus: readonly Gpu[];
}

let answer: Promise<Driver> | undefined;

/**
 * What the driver says. It is asked once in a process.
 *
 * @throws {DeviceError} if there is no driver, or none that works and has a GPU.
 */
export function nvidiaDriver(): Promise<Driver> {
  return answer ??= askDriver(LIMIT_MS);
}

/** Why no GPU can be used; undefined if there is a driver with one. */
export async function whyNoGpu(): Promise<string | undefined> {
  try {
    await nvidiaDriver();
    return undefined;
  } catch (error) {
    if (error instanceof DeviceError) return error.message;
    throw error;
  }
}

/** Asks the driver now, and gives it so many milliseconds. */
export async function askDriver(limit: number): Promise<Driver> {
  const { cuInit, ...driver } = openDriver();
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const message = `the NVIDIA driver has not answered for ${limit / 1e3} s`;
    reject(new DeviceError(message));
  }, limit);
  const started = await Promise.race([cuInit(0), timeout])
    .finally(() => clearTimeout(timer));

  const number = new Int32Array(1);
  /** The number that a function has written. */
  const written = (status: number): number => {
    if (status === 0) return number[0]!;
    const text = new BigUint64Array(1);
    driver.cuGetErrorString(status, text);
    const pointer = Deno.UnsafePointer.create(text[0]!);
    const why = pointer && Deno.UnsafePointerView.getCString(pointer);
    throw new DeviceError(
      `the NVIDIA driver finds no GPU to use: ${why ?? `error ${status}`}`,
    );
  };
  written(started);
  const version = written(driver.cuDriverGetVersion(number));
  const count = written(driver.cuDeviceGetCount(number));
  if (count === 0) throw new DeviceError("the NVIDIA driver has no GPU");
  const gpus = Array.from({ length: count }, (_, ordinal) => {
    const device = written(driver.cuDeviceGet(number, ordinal));
    const name = new Uint8Array(NAME_CAPACITY);
    written(driver.cuDeviceGetName(name, NAME_CAPACITY, device));
    const capability = CAPABILITY.map((attribute) =>
      written(driver.cuDeviceGetAttribute(number, attribute, device))
    );
    return { name: decodeText(name), capability: capability.join(".") };
  });
  return {
    version: `${Math.floor(version / 1000)}.${version % 1000 / 10}`,
    gpus,
  };
}

function openDriver(): Functions {
  try {
    return Deno.dlopen("libcuda.so.1", FUNCTIONS).symbols;
  } catch (cause) {
    // Without the permission Deno's own error says best what to do.
    if (cause instanceof Deno.errors.NotCapable) throw cause;
    throw new DeviceError("there is no NVIDIA driver", { cause });
  }
}
