// An Express application with serve-grip, as its users write one.

import { HttpResponseFormat, HttpStreamFormat, WebSocketMessageFormat } from '@fanoutio/grip';
import { ServeGrip } from '@fanoutio/serve-grip';
import express from 'express';

const serveGrip = new ServeGrip({ grip: process.env.GRIP_URL });
const app = express();
app.use(serveGrip);

app.post('/websocket', (req, res) => {
  const { wsContext } = req.grip;
  if (wsContext == null) {
    res.status(400).end('[not a WebSocket-over-HTTP request]\n');
    return;
  }
  if (wsContext.isOpening()) {
    wsContext.accept();
    wsContext.subscribe(req.query.channel);
    wsContext.meta.user = req.query.user ?? '';
  }
  while (wsContext.canRecv()) {
    const message = wsContext.recvRaw();
    if (message == null) {
      wsContext.close(wsContext.closeCode ?? undefined);
      break;
    }
    if (message === 'who') {
      wsContext.send(`${wsContext.meta.user} by ${wsContext.id}`);
    } else if (message instanceof Uint8Array) {
      wsContext.sendBinary(message);
    } else {
      wsContext.send(message);
    }
  }
  res.end();
});

app.get('/events', (req, res) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel(req.query.channel);
  instruct.setHoldStream();
  instruct.setKeepAlive('event: keep-alive\ndata:\n\n', 20);
  res.setHeader('Content-Type', 'text/event-stream');
  res.end('event: open\ndata:\n\n');
});

app.get('/poll', (req, res) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel(req.query.channel);
  instruct.setHoldLongPoll(30);
  res.end('nothing\n');
});

app.get('/grip', (req, res) => {
  const { isProxied, isSigned } = req.grip;
  res.json({ isProxied, isSigned });
});

app.post('/publish', express.text(), async (req, res) => {
  await serveGrip.getPublisher().publishFormats(req.query.channel, [
    new HttpStreamFormat(`data: ${req.body}\n\n`),
    new HttpResponseFormat({ code: 201, headers: { 'X-By': 'serve-grip' }, body: `${req.body}\n` }),
    new WebSocketMessageFormat(req.query.binary ? new TextEncoder().encode(req.body) : req.body),
  ]);
  res.end('published\n');
});

app.post('/close', async (req, res) => {
  const format = new WebSocketMessageFormat(null, true, Number(req.query.code));
  await serveGrip.getPublisher().publishFormats(req.query.channel, format);
  res.end('closed\n');
});

app.listen(Number(process.env.PORT), '127.0.0.1');
