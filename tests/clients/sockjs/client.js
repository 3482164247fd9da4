// A SockJS client whose events go to standard output, and whose orders come by standard input:
//     node client.js URL TRANSPORT
// Both are one JSON value a line: ["open", transport], ["message", data], ["close", code, reason];
// ["send", data], ["close"].

import readline from "node:readline";
import SockJS from "sockjs-client";

const [url, transport] = process.argv.slice(2);
const tell = (...event) => console.log(JSON.stringify(event));
const sock = new SockJS(url, null, { transports: [transport] });

sock.onopen = () => tell("open", sock.transport);
sock.onmessage = (event) => tell("message", event.data);
sock.onclose = (event) => tell("close", event.code, event.reason);

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [order, data] = JSON.parse(line);
  if (order === "send") {
    sock.send(data);
  } else {
    sock.close();
  }
});
