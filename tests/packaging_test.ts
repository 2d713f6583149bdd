/** The package where users have it from: a registry, not a folder with its sources. */
import { assertEquals, assertMatch } from "@std/assert";
import { PACKAGE, publishedFiles, Registry } from "./jsr_registry.ts";
import { type Finished, startProgram } from "./launch_replicas.ts";

/** A user's script: one of the losses, and one that it defines. */
const SCRIPT = `
import { DDPLoss, defineLoss, Device, type Tensor } from "@atomloss/atomloss";

await defineLoss("charbonnier", {
  value: "sqrt(d * d + eps * eps)",
  grad: "d / sqrt(d * d + eps * eps)",
  parameters: { eps: 4 },
});
using device: Device = await Device.open("cpu");
using pred: Tensor = device.tensor(new Float32Array([3, 0, 0, 3]), [2, 2]);
using target = device.zeros([2, 2]);
const values: number[] = [];
for (const name of ["l2norm", "charbonnier"]) {
  using value = new DDPLoss(name).forward(pred, target);
  values.push(await value.item());
}
console.log(values.join(" "));
`;

const REPLICA = `
import { DDPLoss, Device, ProcessGroup } from "@atomloss/atomloss";

using device = await Device.open("cpu");
using group = await ProcessGroup.init({ device });
using pred = device.tensor(new Float32Array([group.rank]));
using value = new DDPLoss("mae", "mean", { group }).forward(pred, device.zeros([1]));
console.log(await value.item());
`;

const FILES = `
import { Device, type Tensor } from "@atomloss/atomloss";
import { loadTensors, saveTensors } from "@atomloss/atomloss/safetensors";

using device = await Device.open("cpu");
using weight = device.tensor(new Float32Array([3, 4]));
await saveTensors("weights.safetensors", { weight });
const { tensors } = await loadTensors("weights.safetensors", device);
const same: Tensor = tensors.weight!;
console.log((await same.toList()).join(" "));
`;

/** A user's folder, in which nothing of this package is, nor in its caches. */
interface Project {
  /** Runs deno there. */
  deno(...args: readonly string[]): Promise<Finished>;
}

/** Where this machine keeps what is from npm: it may have no network. */
async function npmCache(): Promise<string> {
  const { stdout } = await startProgram(Deno.execPath(), ["info", "--json"])
    .finished();
  return JSON.parse(stdout).npmCache;
}

/** Makes one below a folder, that imports the package from an address. */
async function makeProject(
  below: string,
  address: string,
  registry: Registry,
): Promise<Project> {
  const folder = await Deno.makeTempDir({ dir: below });
  const config = { imports: { "@atomloss/atomloss": address } };
  await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify(config));
  await Deno.writeTextFile(`${folder}/main.ts`, SCRIPT);
  await Deno.writeTextFile(`${folder}/replica.ts`, REPLICA);
  await Deno.writeTextFile(`${folder}/files.ts`, FILES);
  await Deno.mkdir(`${folder}/.deno`);
  await Deno.symlink(await npmCache(), `${folder}/.deno/npm`);
  const env = {
    ATOMLOSS_LIBRARY_CPU: "",
    DENO_DIR: `${folder}/.deno`,
    JSR_URL: registry.url,
    XDG_CACHE_HOME: `${below}/cache`,
  };
  return {
    deno: (...args) =>
      startProgram(Deno.execPath(), args, env, folder).finished(),
  };
}

/** Runs the user's script in all projects at a time; gives what they said. */
async function computeIn(
  projects: readonly Project[],
  ...flags: readonly string[]
): Promise<string> {
  const all = await Promise.all(
    projects.map(({ deno }) => deno("run", "-A", ...flags, "main.ts")),
  );
  for (const { code, stdout, stderr } of all) {
    assertEquals(code, 0, stderr);
    assertEquals(stdout, "3 4.5\n");
  }
  return all.map(({ stderr }) => stderr).join("");
}

Deno.test("the package works where it is imported from a registry", async (t) => {
  const below = await Deno.makeTempDir();
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => Deno.remove(below, { recursive: true }));
  const registry = cleanup.use(await Registry.start());
  const project = await makeProject(below, PACKAGE, registry);
  const other = await makeProject(below, registry.plain("mod.ts"), registry);

  await t.step("by two at a time, who build the library once", async () => {
    const said = await computeIn([project, other]);
    assertEquals(said.match(/compiling the \w+ library/g)?.sort(), [
      "compiling the cpu library",
      "compiling the cpu_charbonnier library",
    ]);
    const left = Array.from(
      Deno.readDirSync(`${below}/cache/atomloss`),
      ({ name }) => name.replace(/-[0-9a-f]{16}\.so$/, ".so"),
    );
    assertEquals(left.sort(), [
      "build-cpu.lock",
      "build-cpu_charbonnier.lock",
      "libatomloss_cpu.so",
      "libatomloss_cpu_charbonnier.so",
    ]);
  });

  await t.step("by the types of its users", async () => {
    const { code, stderr } = await project.deno("check", "main.ts");
    assertEquals(code, 0, stderr);
  });

  await t.step("by replicas that its launcher starts", async () => {
    const { code, stdout, stderr } = await project.deno(
      ..."run -A".split(" "),
      `${PACKAGE}/launch`,
      ..."--nproc-per-node 2 replica.ts".split(" "),
    );
    assertEquals(code, 0, stderr);
    assertEquals(stdout.trim().split("\n").sort(), [
      "[rank 0] 0",
      "[rank 1] 1",
    ]);
  });

  await t.step("by the doctor", async () => {
    const { code, stdout } = await project.deno(
      ..."run -A".split(" "),
      `${PACKAGE}/doctor`,
    );
    assertEquals(code, 0, stdout);
    assertMatch(stdout, /^ok +cpu replicas /m);
  });

  await t.step("by who keeps tensors in files", async () => {
    const { code, stdout, stderr } = await project.deno(
      ..."run -A files.ts".split(" "),
    );
    assertEquals(code, 0, stderr);
    assertEquals(stdout, "3 4\n");
  });

  await registry.stop();
  await t.step("without a network, by those who have used it", async () => {
    assertEquals(await computeIn([project, other]), "");
  });
});

Deno.test("what is published is the package and what explains it", async () => {
  const files = await publishedFiles();
  const folders = new Set(files.map((file) => file.replace(/\/.*/, "/")));
  assertEquals([...folders].sort(), [
    ..."CHANGELOG.md CITATION.cff LICENSE README.md SECURITY.md".split(" "),
    ..."deno.json distributed/ docs/ doctor.ts".split(" "),
    ..."doctor/ errors.ts examples/ ffi/ kernels/ launch.ts launcher/".split(
      " ",
    ),
    ..."loss/ mod.ts tensor/".split(" "),
  ]);
});
