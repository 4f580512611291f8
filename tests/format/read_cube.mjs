// Reads every product of a cube with zarrita.js and prints the shape and sha256 of its pixels, as JSON.
import { createHash } from "node:crypto";
import FileSystemStore from "@zarrita/storage/fs";
import * as zarr from "zarrita";

const [cube, ...products] = process.argv.slice(2);
const root = zarr.root(new FileSystemStore(cube));
const found = {};
for (const name of products) {
  const array = await zarr.open.v3(root.resolve(`${name}/${name}`), { kind: "array" });
  const { data, shape } = await zarr.get(array);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  found[name] = { shape, sha256: createHash("sha256").update(bytes).digest("hex") };
}
const rois = await zarr.get(await zarr.open.v3(root.resolve("roi"), { kind: "array" }));
found.roi = Array.from(rois.data);
console.log(JSON.stringify(found));
