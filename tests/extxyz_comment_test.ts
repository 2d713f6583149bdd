import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { parseComment, valueInAnyCase } from "../examples/extxyz/comment.ts";

function pairs(line: string): Record<string, string> {
  return Object.fromEntries(parseComment(line).pairs);
}

Deno.test("parseComment() reads pairs and skips bare words in any order", () => {
  assertEquals(pairs("a=1 flag b=2\tother"), { a: "1", b: "2" });
  assertEquals(pairs("flag energy"), {});
  assertEquals(pairs("  \ta=1  "), { a: "1" });
  assertEquals(pairs(""), {});
  assertEquals(pairs(" \t "), {});
});

Deno.test("parseComment() takes blanks on either side of =", () => {
  assertEquals(pairs("a =1 b= 2 c \t=\t 3"), { a: "1", b: "2", c: "3" });
  assertEquals(pairs(`a = "1 2" b`), { a: "1 2" });
});

Deno.test("parseComment() ends the key at the first = and leaves the others to the value", () => {
  assertEquals(pairs("key=ab=c= next=1"), { key: "ab=c=", next: "1" });
  assertEquals(pairs("a==b"), { a: "=b" });
  assertEquals(pairs("a=b=c=d"), { a: "b=c=d" });
});

Deno.test("parseComment() has an empty value where a pair follows", () => {
  assertEquals(pairs("note= energy=-5"), { note: "", energy: "-5" });
  assertEquals(pairs("note= energy = -5"), { note: "", energy: "-5" });
  assertEquals(pairs(`note="" energy=-5`), { note: "", energy: "-5" });
  assertEquals(pairs("note= {} energy=-5"), { note: "", energy: "-5" });
  assertEquals(pairs("note="), { note: "" });
  assertEquals(pairs("note=  "), { note: "" });
  assertEquals(pairs(`note= "energy=-5"`), { note: "energy=-5" });
});

Deno.test("parseComment() skips an = that no key is before", () => {
  assertEquals(pairs("=5 a=1"), { a: "1" });
  assertEquals(pairs("= a=1"), { a: "1" });
  assertEquals(pairs("== a=1"), { a: "1" });
});

Deno.test("parseComment() takes what quotes and brackets hold as it is", () => {
  for (const [open, close] of ['""', "''", "{}", "[]"]) {
    const text = "bulk fcc, 300 K = x";
    assertEquals(pairs(`a=${open}${text}${close} b=1`), { a: text, b: "1" });
    assertEquals(pairs(`${open}my key${close}=1`), { "my key": "1" });
  }
  assertEquals(pairs(`a="it's {x" b='say "x"' c={"y" 'z'}`), {
    a: "it's {x",
    b: 'say "x"',
    c: `"y" 'z'`,
  });
  assertEquals(pairs(`a="energy=-5 forces=3"`), { a: "energy=-5 forces=3" });
});

Deno.test("parseComment() opens quotes and brackets anywhere in a word", () => {
  assertEquals(pairs(`a=x"1 2"y b=z{3 4}`), { a: "x1 2y", b: "z3 4" });
  assertEquals(pairs(`a"b c"d=1`), { "ab cd": "1" });
  assertEquals(pairs(`a="1 2"[3 4]`), { a: "1 23 4" });
});

Deno.test("parseComment() takes an apostrophe inside a word for itself", () => {
  assertEquals(pairs("Frenkel's energy=-5.0"), { energy: "-5.0" });
  assertEquals(pairs("name=Frenkel's energy=-5.0"), {
    name: "Frenkel's",
    energy: "-5.0",
  });
  assertEquals(pairs("a=x='1 b=2"), { a: "x='1", b: "2" });
  assertEquals(pairs(`a="1"'2 b=3`), { a: "1'2", b: "3" });
  // Behind the first = and behind blanks a word begins.
  assertEquals(pairs("a='1 2' b= '3 4'"), { a: "1 2", b: "3 4" });
});

Deno.test("parseComment() drops a backslash and leaves what is after it as it is", () => {
  assertEquals(pairs(String.raw`a="a \"b\""`), { a: 'a "b"' });
  assertEquals(pairs(String.raw`a='it\'s' b={x\}y} c=[\]]`), {
    a: "it's",
    b: "x}y",
    c: "]",
  });
  assertEquals(pairs(String.raw`a=1\ 2 b\=c=3 d=\\`), {
    a: "1 2",
    "b=c": "3",
    d: "\\",
  });
  assertEquals(pairs("a=1\\"), { a: "1" });
  assertEquals(pairs('a="1\\'), { a: "1" });
});

Deno.test("parseComment() nests brackets of one kind, and double quotes hide them", () => {
  assertEquals(pairs(`a=[[1, 2], ["]", 4]] b=1`), {
    a: `[1, 2], ["]", 4]`,
    b: "1",
  });
  assertEquals(pairs(`a={{1} {"}"}} b=1`), { a: `{1} {"}"}`, b: "1" });
  assertEquals(pairs("a=[{1] b=1"), { a: "{1", b: "1" });
  assertEquals(pairs("a={[1} b=1"), { a: "[1", b: "1" });
});

Deno.test("parseComment() ends a bracket at its first closing one where the nesting does not close", () => {
  assertEquals(pairs("a=[[1 2] b=3"), { a: "[1 2", b: "3" });
  assertEquals(pairs("a=[[1 2] b=[[3], [4]]"), { a: "[1 2", b: "[3], [4]" });
  assertEquals(pairs(`a=[1 " 2] b=3`), { a: `1 " 2`, b: "3" });
  assertEquals(parseComment("a=[[1 2] b=3").unclosed, undefined);
});

Deno.test("parseComment() ends with the line what does not close, and says so", () => {
  for (const open of ['"', "'", "[", "{"]) {
    const { pairs, unclosed } = parseComment(`b=1 a=${open}2 c=3`);
    assertEquals(Object.fromEntries(pairs), { b: "1", a: "2 c=3" });
    assertEquals(unclosed, open);
  }
  assertEquals(parseComment("a='1' b=[2]").unclosed, undefined);
});

Deno.test("parseComment() holds the last of a key that is given twice", () => {
  const { pairs, repeated } = parseComment("a=1 b=2 a=3 a");
  assertEquals(Object.fromEntries(pairs), { a: "3", b: "2" });
  assertEquals(repeated, ["a"]);
});

Deno.test("parseComment() takes nothing but spaces and tabs for blanks", () => {
  assertEquals(pairs("a=1\u00a0b=2\u2003c\f=\v3"), {
    a: "1\u00a0b=2\u2003c\f=\v3",
  });
});

Deno.test("valueInAnyCase() prefers the exact spelling, then the last", () => {
  const value = (line: string): string | undefined =>
    valueInAnyCase(parseComment(line), "Lattice");
  assertEquals(value("LATTICE=1"), "1");
  assertEquals(value("Lattice=1 lattice=2"), "1");
  assertEquals(value("lattice=1 Lattice=2 LATTICE=3"), "2");
  assertEquals(value("lattice=1 LATTICE=2"), "2");
  assertEquals(value("latt\u0131ce=1"), undefined); // ASCII alone
  assertEquals(value("a=1"), undefined);
});

Deno.test("parseComment() gives back what was written however it is quoted", () => {
  const text = fc.string({ unit: fc.constantFrom(..."ab1 =,\\\"'[]{}\té") });
  const key = fc.string({ unit: fc.constantFrom(..."abcXYZ_0"), minLength: 1 });
  const quoted = (text: string, quote: string): string =>
    quote + text.replaceAll(/[\\"']/g, "\\$&") + quote;
  fc.assert(fc.property(
    fc.dictionary(key, fc.tuple(text, fc.constantFrom('"', "'"))),
    fc.constantFrom("=", " =", "= ", " \t= "),
    (values, equals) => {
      const entries = Object.entries(values);
      const line = entries
        .map(([key, [text, quote]]) => key + equals + quoted(text, quote))
        .join(" flag ");
      assertEquals(
        pairs(line),
        Object.fromEntries(entries.map(([key, [text]]) => [key, text])),
      );
    },
  ));
});

Deno.test("parseComment() reads a long line in a time that its length is proportional to", () => {
  for (
    const piece of [
      ...['"', "'", "[", "]", "{", "=", "a=", "a= ", "[[] ", '["', "\\", "a ="],
      ...[`[" `, `"] [`, "[[1] a=", `a="[`, "{[}", "'a "],
    ]
  ) {
    const start = performance.now();
    parseComment(piece.repeat(100_000));
    const ms = performance.now() - start;
    assert(ms < 5_000, `${piece}: ${ms} ms`);
  }
});
