// What a program in Node does with Anthropic's SDK.
import Anthropic from "@anthropic-ai/sdk";
import { serve } from "./deeds.mjs";

let requests = 0;
const client = new Anthropic({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
  timeout: 30_000,
  fetch: (...asked) => {
    requests += 1;
    return fetch(...asked);
  },
});

const weather = {
  name: "weather",
  description: "How the weather is.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const asked = ({ model = "demo", words = "Hello", ...more }) => ({
  model,
  max_tokens: 1000,
  messages: [{ role: "user", content: words }],
  ...more,
});

const deeds = {
  async answer(told) {
    const { data, request_id } = await client.messages.create(asked(told)).withResponse();
    return { ...spoken(data), usage: data.usage, request: request_id };
  },

  async stream(told) {
    const stream = client.messages.stream(asked(told));
    const types = [];
    for await (const event of stream) types.push(event.type);
    const message = await stream.finalMessage();
    return { ...spoken(message), usage: message.usage, types };
  },

  async tool_loop(told) {
    const body = { ...asked(told), tools: [weather] };
    const called = await client.messages.create(body);
    const results = called.content
      .filter((block) => block.type === "tool_use")
      .map(({ id, input }) => ({ type: "tool_result", tool_use_id: id, content: `rain in ${input.city}` }));
    const turns = [{ role: "assistant", content: called.content }, { role: "user", content: results }];
    const final = await client.messages.create({ ...body, messages: [...body.messages, ...turns] });
    return { called: spoken(called), final: spoken(final) };
  },

  async tool_stream(told) {
    return spoken(await client.messages.stream({ ...asked(told), tools: [weather] }).finalMessage());
  },

  async count(told) {
    const { max_tokens: _, ...body } = asked(told);
    return client.messages.countTokens(body);
  },

  async failure({ key, retries = 0, timeout = 30_000, ...told }) {
    requests = 0;
    try {
      const it = key ? client.withOptions({ apiKey: key }) : client;
      const answer = await it.messages.create(asked(told), { maxRetries: retries, timeout });
      if (told.stream) for await (const _ of answer);
    } catch (error) {
      return { ...failed(error), requests };
    }
    return { class: "none", requests };
  },

  async leave(told) {
    const leaving = new AbortController();
    const call = client.messages.create({ ...asked(told), stream: true }, { signal: leaving.signal });
    const { data, request_id } = await call.withResponse();
    let deltas = 0;
    for await (const event of data) {
      if (event.type === "content_block_delta" && ++deltas === 5) leaving.abort();
    }
    return { deltas, request: request_id };
  },
};

function spoken({ content, stop_reason }) {
  const text = content.filter((block) => block.type === "text").map((block) => block.text);
  const calls = content.filter((block) => block.type === "tool_use").map(({ name, input }) => ({ name, input }));
  return { text: text.join(""), calls, stop: stop_reason };
}

function failed(error) {
  const { status, requestID, error: body } = error;
  return { class: error.constructor.name, status, type: body?.error?.type, request: requestID };
}

await serve(deeds);
