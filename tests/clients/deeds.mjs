// How a program in Node is asked: a line `[deed, {…}]` on stdin, a line `{"told": …}` or `{"failed": …}` on stdout.
import { createInterface } from "node:readline";

export async function serve(deeds) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [deed, told] = JSON.parse(line);
    const answer = await deeds[deed](told).then(
      (it) => ({ told: it }),
      (error) => ({ failed: error.stack }),
    );
    console.log(JSON.stringify(answer));
  }
}
