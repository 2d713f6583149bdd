/**
 * Tensors borrowed from and lent to other libraries by DLPack, the struct
 * through which array libraries hand each other memory.
 *
 * Specification: https://dmlc.github.io/dlpack/latest/c_api.html
 */
import { ArgumentError, DeviceError, DTypeError } from "../errors.ts";
import type { NativeHandle } from "../ffi/native_handle.ts";
import { addressFrom } from "../ffi/pointer.ts";
import { type Device, streamOf } from "./device.ts";
import { type DType, dtypeCode } from "./dtype.ts";
import { formatShape, type Shape, shapeSize } from "./shape.ts";

/** Options of `Tensor.fromDLPack` and `Tensor.toDLPack`. */
export interface DLPackOptions {
  /**
   * Whether the struct is a `DLManagedTensorVersioned`, of DLPack 1.0 and
   * later, or a `DLManagedTensor`, of those before. Nothing in the structs tells
   * them apart. Default: true.
   */
  versioned?: boolean;
}

/** What a capsule says of its tensor, checked. */
export interface Borrowed {
  /** Where the elements begin; null only where there are none. */
  readonly pointer: Deno.PointerValue;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Whether its owner forbids writing. */
  readonly readOnly: boolean;
  /** Calls the capsule's deleter. To be called once. */
  readonly giveBack: (native: NativeHandle) => void;
}

/** The major version of the versioned struct that is understood. */
const MAJOR_VERSION = 1;

/** Bit of `flags` that forbids writing. */
const READ_ONLY = 1n;

/** More than any library allows: a larger number is not a `DLTensor`. */
const MAX_DIMENSIONS = 64;

/** Where the members of the structs are, in bytes. */
const TENSOR = {
  data: 0,
  device_type: 8,
  device_id: 12,
  ndim: 16,
  code: 20,
  bits: 21,
  lanes: 22,
  shape: 24,
  strides: 32,
  byte_offset: 40,
};
const UNVERSIONED = { dl_tensor: 0, deleter: 56 };
const VERSIONED = { major: 0, minor: 4, deleter: 16, flags: 24, dl_tensor: 32 };

/** DLDeviceType by name, for messages. */
const DEVICE_TYPES: Readonly<Record<number, string>> = {
  1: "kDLCPU",
  2: "kDLCUDA",
  3: "kDLCUDAHost",
  13: "kDLCUDAManaged",
};

/**
 * Which memory a device works on. Page-locked host memory is ordinary memory to
 * the CPU; to a GPU it is memory behind a bus, and better copied first. Managed
 * memory is the GPU's, since the CPU must not touch it while a kernel runs.
 */
const USABLE: Readonly<Record<Device["type"], readonly string[]>> = {
  cpu: ["kDLCPU", "kDLCUDAHost"],
  cuda: ["kDLCUDA", "kDLCUDAManaged"],
};

/** DLDataTypeCode. */
const CODES = ["int", "uint", "float", "opaque", "bfloat", "complex", "bool"];

/** The dtypes by code and bits. */
const DTYPES: Readonly<Record<string, DType>> = {
  float32: "float32",
  float64: "float64",
  float16: "float16",
  bfloat16: "bfloat16",
  int32: "int32",
  int64: "int64",
  bool8: "bool",
};

const deleterType = { parameters: ["pointer"], result: "void" } as const;

/**
 * Reads and checks a capsule, and changes nothing: it is the caller's until the
 * deleter is called.
 */
export function readDLPack(
  device: Device,
  managed: Deno.PointerValue,
  { versioned = true }: DLPackOptions,
): Borrowed {
  if (managed === null || addressFrom(managed, "the DLPack struct") === 0n) {
    throw new ArgumentError(
      "the DLPack struct is null, expected the address of a " +
        (versioned ? "DLManagedTensorVersioned" : "DLManagedTensor"),
    );
  }
  const view = new Deno.UnsafePointerView(managed);
  if (versioned) checkVersion(view);
  const at = versioned ? VERSIONED : UNVERSIONED;
  const member = (name: keyof typeof TENSOR): number =>
    at.dl_tensor + TENSOR[name];

  checkDevice(
    device,
    view.getInt32(member("device_type")),
    view.getInt32(member("device_id")),
  );
  const dtype = dtypeFrom(
    view.getUint8(member("code")),
    view.getUint8(member("bits")),
    view.getUint16(member("lanes")),
  );
  const ndim = view.getInt32(member("ndim"));
  if (ndim < 0 || ndim > MAX_DIMENSIONS) {
    throw new ArgumentError(
      `the DLPack tensor has ndim ${ndim}, expected 0 to ${MAX_DIMENSIONS}`,
    );
  }
  const lengths = view.getPointer(member("shape"));
  if (lengths === null && ndim > 0) {
    throw new ArgumentError(`the DLPack tensor has ndim ${ndim} and no shape`);
  }
  const shape = integers(lengths, ndim);
  const strides = view.getPointer(member("strides"));
  if (strides !== null) checkStrides(shape, integers(strides, ndim));

  const data = view.getPointer(member("data"));
  const offset = view.getBigUint64(member("byte_offset"));
  const deleter = view.getPointer<typeof deleterType>(at.deleter);
  const call = deleter && new Deno.UnsafeFnPointer(deleter, deleterType);
  return {
    // As a bigint: an offset may be larger than a number holds.
    pointer: data && Deno.UnsafePointer.create(
      Deno.UnsafePointer.value(data) + offset,
    ),
    shape,
    dtype,
    // The older struct has no flags: it does not say.
    readOnly: versioned &&
      (view.getBigUint64(VERSIONED.flags) & READ_ONLY) !== 0n,
    giveBack(native): void {
      if (call === null) return;
      whenIdle(native, () => call.call(managed));
    },
  };
}

/** Throws unless the versioned struct can be read. */
function checkVersion(view: Deno.UnsafePointerView): void {
  const major = view.getUint32(VERSIONED.major);
  if (major !== MAJOR_VERSION) {
    throw new ArgumentError(
      `the DLPack struct has version ${major}.${
        view.getUint32(VERSIONED.minor)
      }, expected ${MAJOR_VERSION}.x; for a DLManagedTensor, which has no ` +
        "version, pass { versioned: false }",
    );
  }
}

/** Throws unless the memory is the device's. */
function checkDevice(device: Device, type: number, id: number): void {
  const name = DEVICE_TYPES[type];
  const usable = USABLE[device.type];
  // Managed and host memory has no device of its own: its id says nothing.
  if (
    name !== undefined && usable.includes(name) &&
    (name !== "kDLCUDA" || device.name === `cuda:${id}`)
  ) return;
  throw new DeviceError(
    `the DLPack tensor is on a device of type ${
      name === undefined ? type : `${name} (${type})`
    } with id ${id}, expected ${usable.join(" or ")} for ${device.name}`,
  );
}

function dtypeFrom(code: number, bits: number, lanes: number): DType {
  const name = `${CODES[code] ?? `code ${code}, bits `}${bits}`;
  const dtype = lanes === 1 && Object.hasOwn(DTYPES, name)
    ? DTYPES[name]
    : undefined;
  if (dtype === undefined) {
    throw new DTypeError(
      `the DLPack tensor has dtype ${name}${
        lanes === 1 ? "" : ` of ${lanes} lanes`
      }, expected one of ${Object.values(DTYPES).join(", ")}`,
    );
  }
  return dtype;
}

/** An array of int64. Lengths too large for a number are no shape either. */
function integers(pointer: Deno.PointerValue, count: number): number[] {
  if (pointer === null) return [];
  const view = new Deno.UnsafePointerView(pointer);
  return Array.from(
    { length: count },
    (_, i) => Number(view.getBigInt64(8 * i)),
  );
}

/** Throws unless rows follow each other without gaps. */
function checkStrides(shape: Shape, strides: readonly number[]): void {
  if (shapeSize(shape) === 0) return; // nothing is ever stepped over
  let expected = 1;
  const dense = [...shape];
  for (let i = shape.length - 1; i >= 0; i--) {
    dense[i] = expected;
    expected *= shape[i]!;
  }
  // Nobody steps along a dimension of one.
  if (dense.every((stride, i) => shape[i] === 1 || stride === strides[i])) {
    return;
  }
  throw new ArgumentError(
    `the DLPack tensor of shape ${formatShape(shape)} has strides ${
      formatShape(strides)
    }, expected the dense, row-major ${formatShape(dense)}: ` +
      "have its owner export a contiguous copy",
  );
}

/**
 * Runs `then` when no work enqueued so far can still use a tensor's memory: at
 * once where work is done when its call returns.
 */
function whenIdle(native: NativeHandle, then: () => void): void {
  // A device that is gone has waited for its work.
  if (native.released || streamOf(native) === null) return then();
  const { symbols } = native.library;
  native.onThread(() => symbols.al_synchronize(native.handle, Infinity)).then(
    (status) => {
      try {
        native.library.check(status);
      } catch {
        // Whoever reads a result is told; here it only matters that all is done.
      }
      then();
    },
  );
}

/** A new capsule on a block of the device; its deleter gives the block back. */
export function lendDLPack(
  { library, handle }: NativeHandle,
  pointer: Deno.PointerValue,
  shape: Shape,
  dtype: DType,
  { versioned = true }: DLPackOptions,
): NonNullable<Deno.PointerValue> {
  const managed = new BigUint64Array(1);
  library.check(
    library.symbols.al_dlpack_export(
      handle,
      pointer,
      dtypeCode(dtype),
      shape.length,
      BigInt64Array.from(shape, BigInt),
      Number(versioned),
      managed,
    ),
  );
  return Deno.UnsafePointer.create(managed[0]!)!;
}
