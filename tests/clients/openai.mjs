// What a program in Node does with OpenAI's SDK.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { serve } from "./deeds.mjs";

let requests = 0;
const client = new OpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
  timeout: 30_000,
  fetch: (...asked) => {
    requests += 1;
    return fetch(...asked);
  },
});

const said = (words) => [{ role: "user", content: words }];
const Weather = z.object({ city: z.string(), degrees: z.number().int() });
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { type: "function", function: { name: "weather", parameters } };

const deeds = {
  async answer({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const { data, request_id } = await client.chat.completions.create({ model, messages, ...more }).withResponse();
    return { ...spoken(data.choices[0]), usage: data.usage, request: request_id };
  },

  async stream({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const asked = { model, messages, stream: true, stream_options: { include_usage: true }, ...more };
    let content = "";
    let last;
    for await (last of await client.chat.completions.create(asked)) content += last.choices[0]?.delta.content ?? "";
    return { content, choices: last.choices, usage: last.usage };
  },

  async assembled({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const stream = client.chat.completions.stream({ model, messages, ...more });
    return spoken((await stream.finalChatCompletion()).choices[0]);
  },

  async tool({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const asked = { model, messages, tools: [weather], ...more };
    return spoken((await client.chat.completions.create(asked)).choices[0]);
  },

  async tool_assembled({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const asked = { model, messages, tools: [weather], ...more };
    return spoken((await client.chat.completions.stream(asked).finalChatCompletion()).choices[0]);
  },

  // The SDK's own loop: it calls the function and hands back what it says, until the model has an answer.
  async tool_loop({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const asked = [];
    const rain = (given) => {
      asked.push(given);
      return "rain";
    };
    const tool = { type: "function", function: { ...weather.function, parse: JSON.parse, function: rain } };
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream: Boolean(more.stream) });
    return { asked, content: await runner.finalContent() };
  },

  async structured({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    const asked = { model, messages, response_format: zodResponseFormat(Weather, "weather"), ...more };
    return (await client.chat.completions.parse(asked)).choices[0].message.parsed;
  },

  async embeddings({ model = "demo" }) {
    const input = ["one", "two"];
    const packed = await client.embeddings.create({ model, input });
    const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
    return { packed: packed.data.map((it) => it.embedding), plain: plain.data.map((it) => it.embedding) };
  },

  async models() {
    const listed = [];
    for await (const each of client.models.list()) listed.push(each.id);
    return { listed, one: await client.models.retrieve("demo") };
  },

  async failure({ model = "demo", words = "Hello", messages = said(words), ...more }) {
    requests = 0;
    const { key, retries, timeout, ...body } = more;
    const options = { maxRetries: retries ?? 0, timeout: timeout ?? 30_000 };
    try {
      const it = key ? client.withOptions({ apiKey: key }) : client;
      const answer = await it.chat.completions.create({ model, messages, ...body }, options);
      if (body.stream) for await (const _ of answer);
    } catch (error) {
      return { ...failed(error), requests };
    }
    return { class: "none", requests };
  },

  async leave({ model = "demo", words = "Hello", messages = said(words) }) {
    const leaving = new AbortController();
    const asked = client.chat.completions.create({ model, messages, stream: true }, { signal: leaving.signal });
    const { data, request_id } = await asked.withResponse();
    let chunks = 0;
    for await (const _ of data) if (++chunks === 5) leaving.abort();
    return { chunks, request: request_id };
  },

  async leave_early({ model = "demo", words = "Hello", messages = said(words) }) {
    const leaving = new AbortController();
    setTimeout(() => leaving.abort(), 300);
    try {
      await client.chat.completions.create({ model, messages }, { signal: leaving.signal });
    } catch (error) {
      return failed(error);
    }
  },

  async response({ model = "demo", words = "Hello", ...more }) {
    const answer = await client.responses.create({ model, input: words, ...more });
    return { text: answer.output_text, status: answer.status, usage: answer.usage };
  },

  async response_stream({ model = "demo", words = "Hello", ...more }) {
    const stream = client.responses.stream({ model, input: words, ...more });
    const types = [];
    for await (const event of stream) types.push(event.type);
    return { types, text: (await stream.finalResponse()).output_text };
  },

  async response_tool({ model = "demo", words = "Hello", ...more }) {
    const tools = [{ type: "function", strict: false, ...weather.function }];
    const answer = await client.responses.create({ model, input: words, tools, ...more });
    const called = answer.output.filter((item) => item.type === "function_call");
    return called.map((item) => ({ name: item.name, arguments: JSON.parse(item.arguments) }));
  },

  async response_structured({ model = "demo", words = "Hello", ...more }) {
    const asked = { model, input: words, text: { format: zodTextFormat(Weather, "weather") }, ...more };
    return (await client.responses.parse(asked)).output_parsed;
  },
};

function spoken({ message, finish_reason }) {
  const calls = (message.tool_calls ?? []).map(({ id, function: called }) => ({
    id,
    name: called.name,
    arguments: JSON.parse(called.arguments),
  }));
  return { content: message.content, calls, finish: finish_reason };
}

function failed(error) {
  const { status, code, param, message, requestID } = error;
  return { class: error.constructor.name, status, code, param, message, request: requestID };
}

await serve(deeds);
