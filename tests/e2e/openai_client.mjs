// OpenAI's JavaScript client against a running platform: node openai_client.mjs BASE_URL KEY
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "What is 12 + 30?" }];
const parameters = {
  type: "object",
  properties: { a: { type: "integer" }, b: { type: "integer" } },
  required: ["a", "b"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "add", parameters } }];

const whole = await client.chat.completions.create({ model: "auto", messages, max_tokens: 16, seed: 1, n: 2, logprobs: true });
assert.deepEqual(whole.choices.map((choice) => choice.index), [0, 1]);
assert.ok(whole.choices[0].logprobs.content.length > 0);

const texts = ["", ""];
let usage = null;
const stream = await client.chat.completions.create({
  model: "auto", messages, max_tokens: 16, seed: 1, n: 2, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.deepEqual(texts, whole.choices.map((choice) => choice.message.content));
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const runner = client.chat.completions.stream({ model: "pro", messages, max_tokens: 200, seed: 1, tools, tool_choice: "required" });
const { choices: [{ message, finish_reason }] } = await runner.finalChatCompletion();
assert.equal(finish_reason, "tool_calls");
assert.equal(message.tool_calls[0].function.name, "add");
assert.deepEqual(Object.keys(JSON.parse(message.tool_calls[0].function.arguments)).sort(), ["a", "b"]);

await assert.rejects(client.chat.completions.create({ model: "auto", messages, n: 1000 }), OpenAI.BadRequestError);
console.log("ok");
