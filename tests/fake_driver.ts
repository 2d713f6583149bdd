/** A libcuda.so.1 that has the GPUs that a variable names, for what asks the driver. */
import { assertEquals } from "@std/assert";
import { startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/**
 * FAKE_GPUS: compute capabilities, separated by spaces. FAKE_FAILS: the status
 * of cuInit. FAKE_HANGS: cuInit does not return. FAKE_LOG: a file that cuInit
 * adds a line to.
 */
const SOURCE = `
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
static const char* variable(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}
static double gpu(int ordinal) {
  const char* text = variable("FAKE_GPUS");
  for (int i = 0;; ++i) {
    char* end;
    const double capability = strtod(text, &end);
    if (end == text) return 0;
    if (i == ordinal) return capability;
    text = end;
  }
}
extern "C" {
int cuInit(unsigned) {
  if (*variable("FAKE_HANGS")) for (;;) pause();
  if (FILE* log = fopen(variable("FAKE_LOG"), "a")) {
    fputs("cuInit\\n", log);
    fclose(log);
  }
  return atoi(variable("FAKE_FAILS"));
}
int cuDriverGetVersion(int* version) { *version = 13020; return 0; }
int cuDeviceGetCount(int* count) {
  for (*count = 0; gpu(*count) > 0;) ++*count;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) { *device = 100 + ordinal; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
  return snprintf(name, size, "GPU %d", device - 100) < 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = int(gpu(device - 100) * 10 + 0.5);
  if (attribute != 75 && attribute != 76) return 1;
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}
int cuGetErrorString(int status, const char** text) {
  *text = status == 999 ? "unknown error" : nullptr;
  return *text ? 0 : 1;
}
}
`;

/** Gives the environment in which that driver is found. */
export async function withFakeDriver(
  test: (env: Record<string, string>, folder: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const source = `${folder}/driver.cpp`;
    await Deno.writeTextFile(source, SOURCE);
    const output = `${folder}/libcuda.so.1`;
    const { code, stderr } = await startProgram("g++", [
      "-shared",
      "-fPIC",
      source,
      "-o",
      output,
    ]).finished();
    assertEquals(code, 0, stderr);
    await test({ LD_LIBRARY_PATH: folder }, folder);
  });
}
