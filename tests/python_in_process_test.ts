/** What docs/bring_your_own_model.md says of Python, where there is PyTorch for it. */
import { assertMatch } from "@std/assert";
import { ROOT, startProgram } from "./launch_replicas.ts";

const PYTHON = "python3.11"; // whose library the page names

const hasTorch = await new Deno.Command(PYTHON, {
  args: ["-c", "import torch, ctypes; ctypes.CDLL('libpython3.11.so.1.0')"],
  stderr: "null",
}).output().then(({ success }) => success, () => false);

Deno.test({
  name: "PyTorch in this process reads gradients where a loss has written them",
  ignore: !hasTorch,
  async fn(): Promise<void> {
    const page = await Deno.readTextFile(`${ROOT}docs/bring_your_own_model.md`);
    const [, code] = /^```ts ignore\n([^]*?)^```$/m.exec(page)!;
    const script = await Deno.makeTempFile({
      dir: `${ROOT}tests`,
      suffix: ".ts",
    });
    try {
      await Deno.writeTextFile(script, code!);
      const { stdout, stderr } = await startProgram(
        Deno.execPath(),
        ["run", "-A", "--no-check", script],
      ).finished();
      assertMatch(stdout, /^\[\[2\.0, 16\.0\]\]$/m, stderr);
    } finally {
      await Deno.remove(script);
    }
  },
});
