// OpenAI's client for Node on a service of the bundled digits. To run it: trt-var serve --engines digits --port 8080
// and, in a folder of its own: npm install openai && node client.mjs [http://127.0.0.1:8080/v1] [key]
import { readFile, writeFile } from 'node:fs/promises';
import OpenAI, { toFile } from 'openai';

const [baseURL = 'http://127.0.0.1:8080/v1', apiKey = 'none'] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
const save = (name, file) => writeFile(name, Buffer.from(file, 'base64'));

const { data: [model] } = await client.models.list();
console.log(`${model.id}: ${model.size}, N = ${model.n_draft.serves}`);

// what OpenAI's API does not have goes into the same object
const drawn = await client.images.generate({ prompt: 'seven', n: 2, seed: 7, n_draft: 4, cfg: 2 });
for (const image of drawn.data) {
  console.log(`${image.revised_prompt}, seed ${image.seed}, ${drawn.timing.draw_s} s`);
  await save(`seven-${image.seed}.png`, image.b64_json);
}

const events = await client.images.generate({ prompt: 'seven', seed: 7, n_draft: 4, cfg: 2, stream: true, partial_images: 3 });
for await (const event of events) {
  console.log(`${event.type}: scale ${event.scale + 1} of ${event.scales}, ${event.role}`);
  if (event.type === 'image_generation.completed') await save('streamed.png', event.b64_json);
}

// the mask is clear below: there a three is drawn, above the picture stays as it is
const mask = 'iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAQAAADZc7J/AAAAIklEQVR42mNk+M9AEWBiYBg1YNSAUQOGhwGjYBSMglEAAwDdagEfS0+SIAAAAABJRU5ErkJggg==';
const edit = async (options) => client.images.edit({
  image: await toFile(await readFile('seven-7.png'), 'seven.png', { type: 'image/png' }),
  mask: await toFile(Buffer.from(mask, 'base64'), 'mask.png', { type: 'image/png' }),
  prompt: 'three',
  seed: 7,
  temperature: JSON.stringify([1, 1, 1, 0.9, 0.9, 0.9]), // edits are sent as a form: lists and objects as JSON
  ...options,
});
const edited = await edit({});
await save('edited.png', edited.data[0].b64_json);
console.log(`edited: ${edited.data[0].revised_prompt}, seed ${edited.data[0].seed}`);
for await (const event of await edit({ stream: true, partial_images: 2 })) {
  console.log(event.type);
}

try {
  await client.images.generate({ prompt: 'sevn' });
} catch (error) {
  console.log(`${error.constructor.name} ${error.status} ${error.code} (request ${error.requestID}): ${error.message}`);
}
