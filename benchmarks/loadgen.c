// Holds connections to a server under test and times the messages that arrive on them.
//
// usage: loadgen PORT COUNT stream|poll|ws PATH RATE
//
// Opens COUNT connections to 127.0.0.1:PORT, RATE of them a second. In mode `stream` each sends GET
// PATH and is ready when the head of a 200 has come, in mode `ws` that of a 101; in mode `poll`
// each is ready when connected. Then it says
//     READY connected=N failed=N
// and obeys lines on standard input until that ends:
//     ask         (poll) send GET PATH on every connection, RATE a second; closed ones are opened
//                 again. Says
//                 ASKED count=N
//     echo S      (ws) send a message as a masked text frame on every connection, and the next one
//                 when it has come back, for S seconds. Says
//                 ECHOED sent=N seconds=X, and what arrived as after GOT
//     expect K S  wait until K messages have come since the last answer, or none has for 3 s, or
//                 no connection is left, or S seconds have passed; and 0.1 s more for any that come
//                 twice. Says
//                 GOT count=N p50_ms=X p99_ms=X last_ms=X closed=N
//
// A message is "T", 19 digits of CLOCK_MONOTONIC in nanoseconds, and a newline, anywhere in what
// arrives. Its latency runs from that time to the read that brought its end. `closed` counts
// connections that the server closed since the last answer.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DIGITS 19
#define STAMP (1 + DIGITS + 1)
#define PIECE 65536      // bytes of one read
#define PENDING_MAX 50   // connections on their way to ready at a time; at 200 Pushpin refuses many
#define STDIN_EVENT UINT32_MAX

static const uint64_t SECOND = 1000000000;
static const uint64_t QUIET = 3 * SECOND;
static const uint64_t CONNECT_LIMIT = 60 * SECOND;
static const uint64_t GRACE = SECOND / 10;

enum state { CLOSED, CONNECTING, AWAITING_HEAD, READY };

struct connection {
    enum state state;
    int fd;
    int head_length, tail_length;
    char head[1024];    // of the response, until it is complete
    char tail[STAMP];  // what may be the beginning of a stamp
};

static struct connection *connections;
static uint32_t count;
static bool polling, websocket;
static double rate;
static int epoll;
static struct sockaddr_in server = {.sin_family = AF_INET};
static char request[1024];
static int request_length;
static uint64_t echo_until;

static long ready, pending, failed, closed, sent;
static uint64_t *latencies;
static size_t arrived, room;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void record(uint64_t latency) {
    if (arrived == room) {
        room = room ? room * 2 : 1 << 16;
        latencies = realloc(latencies, room * sizeof *latencies);
        if (!latencies) {
            perror("loadgen");
            exit(1);
        }
    }
    latencies[arrived++] = latency;
}

static bool read_stamp(const char *p, uint64_t *time) {
    *time = 0;
    for (int i = 1; i <= DIGITS; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        *time = *time * 10 + (uint64_t)(p[i] - '0');
    }
    return p[DIGITS + 1] == '\n';
}

// `data` has room for STAMP bytes before it, to which what the last read left over is joined.
static void scan(struct connection *c, char *data, size_t length) {
    uint64_t at = now(), made;
    char *p = data - c->tail_length, *end = data + length;
    memcpy(p, c->tail, (size_t)c->tail_length);
    while ((p = memchr(p, 'T', (size_t)(end - p))) && end - p >= STAMP) {
        if (read_stamp(p, &made)) {
            record(at - made);
            p += STAMP;
        } else {
            p++;
        }
    }
    c->tail_length = p ? (int)(end - p) : 0;
    memcpy(c->tail, p ? p : end, (size_t)c->tail_length);
}

static void watch(int operation, struct connection *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(c - connections)};
    epoll_ctl(epoll, operation, c->fd, &e);
}

static void drop(struct connection *c) {
    if (c->state == READY) {
        ready--;
        closed++;
    } else {
        pending--;
        failed++;
    }
    close(c->fd);
    c->state = CLOSED;
}

static void become_ready(struct connection *c) {
    c->state = READY;
    pending--;
    ready++;
}

static void connect_one(struct connection *c) {
    *c = (struct connection){.state = CONNECTING};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    pending++;
    if (c->fd < 0 || (connect(c->fd, (void *)&server, sizeof server) < 0 && errno != EINPROGRESS)) {
        perror("loadgen: connect");
        drop(c);
        return;
    }
    watch(EPOLL_CTL_ADD, c, EPOLLOUT);
}

static bool send_all(struct connection *c, const char *data, int length) {
    if (send(c->fd, data, (size_t)length, MSG_NOSIGNAL) == length) return true;
    drop(c);
    return false;
}

static bool send_request(struct connection *c) { return send_all(c, request, request_length); }

static void send_message(struct connection *c) {
    static uint32_t random = 2463534242;
    char frame[2 + 4 + STAMP + 1] = {(char)0x81, (char)(0x80 | STAMP)};
    char *mask = frame + 2, *payload = mask + 4;
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    memcpy(mask, &random, 4);
    sprintf(payload, "T%0*" PRIu64 "\n", DIGITS, now());
    for (int i = 0; i < STAMP; i++) payload[i] ^= mask[i % 4];
    if (send_all(c, frame, 2 + 4 + STAMP)) sent++;
}

static void on_connected(struct connection *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        fprintf(stderr, "loadgen: connect: %s\n", strerror(error));
        drop(c);
        return;
    }
    watch(EPOLL_CTL_MOD, c, EPOLLIN);
    if (polling)
        become_ready(c);
    else if (send_request(c))
        c->state = AWAITING_HEAD;
}

static void on_head(struct connection *c, char *data, size_t length) {
    size_t before = (size_t)c->head_length, space = sizeof c->head - 1 - before;
    size_t taken = length < space ? length : space;
    memcpy(c->head + before, data, taken);
    c->head_length += (int)taken;
    c->head[c->head_length] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end && taken == length) return;
    if (!end || strncmp(c->head, websocket ? "HTTP/1.1 101" : "HTTP/1.1 200", 12)) {
        fprintf(stderr, "loadgen: refused: %.*s\n", (int)strcspn(c->head, "\r\n"), c->head);
        drop(c);
        return;
    }
    become_ready(c);
    size_t of_head = (size_t)(end + 4 - c->head) - before;
    scan(c, data + of_head, length - of_head);
}

static void on_readable(struct connection *c) {
    static char space[STAMP + PIECE];
    char *data = space + STAMP;
    ssize_t length = read(c->fd, data, PIECE);
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0)
        drop(c);
    else if (c->state == AWAITING_HEAD)
        on_head(c, data, (size_t)length);
    else {
        size_t before = arrived;
        scan(c, data, (size_t)length);
        if (arrived > before && now() < echo_until) send_message(c);
    }
}

// Handles what happens within `milliseconds`; true when there is something on standard input.
static bool pump(int milliseconds) {
    struct epoll_event events[256];
    bool told = false;
    int n = epoll_wait(epoll, events, 256, milliseconds);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == STDIN_EVENT) {
            told = true;
            continue;
        }
        struct connection *c = &connections[events[i].data.u32];
        if (c->state == CONNECTING)
            on_connected(c);
        else if (c->state != CLOSED)
            on_readable(c);
    }
    return told;
}

// Waits until it is time for number `done` at RATE, and until few enough are pending.
static void pace(uint64_t begin, long done) {
    while ((pending >= PENDING_MAX || (double)(now() - begin) * rate < (double)done * 1e9) &&
           now() - begin < CONNECT_LIMIT)
        pump(1);
}

static void connect_all(void) {
    uint64_t begin = now();
    long opened = 0;
    for (struct connection *c = connections; c < connections + count; c++) {
        if (c->state != CLOSED) continue;
        pace(begin, opened++);
        connect_one(c);
    }
    while (pending && now() - begin < CONNECT_LIMIT) pump(1);
}

static void ask(void) {
    long asked = 0;
    connect_all();
    uint64_t begin = now();
    for (struct connection *c = connections; c < connections + count; c++) {
        if (c->state != READY) continue;
        pace(begin, asked);
        if (c->state == READY && send_request(c)) asked++;
    }
    printf("ASKED count=%ld\n", asked);
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double milliseconds(double share) {
    return arrived ? (double)latencies[(size_t)((double)(arrived - 1) * share)] / 1e6 : 0;
}

// Handles arrivals until `wanted` have come or `deadline`; returns the time of the last one.
static uint64_t wait_for(size_t wanted, uint64_t deadline) {
    uint64_t last = now();
    size_t seen = arrived;
    while (arrived < wanted && ready && now() - last < QUIET && now() < deadline) {
        pump(10);
        if (arrived != seen) {
            seen = arrived;
            last = now();
        }
    }
    return last;
}

static void tell_arrivals(void) {
    for (uint64_t end = now() + GRACE; now() < end;) pump(10);
    qsort(latencies, arrived, sizeof *latencies, ascending);
    printf("count=%zu p50_ms=%.3f p99_ms=%.3f last_ms=%.3f closed=%ld\n", arrived,
           milliseconds(0.5), milliseconds(0.99), milliseconds(1), closed);
    arrived = 0;
    closed = 0;
}

static void expect(size_t wanted, double seconds) {
    wait_for(wanted, now() + (uint64_t)(seconds * 1e9));
    printf("GOT ");
    tell_arrivals();
}

static void echo(double seconds) {
    uint64_t begin = now();
    sent = 0;
    echo_until = begin + (uint64_t)(seconds * 1e9);
    for (struct connection *c = connections; c < connections + count; c++)
        if (c->state == READY) send_message(c);
    while (now() < echo_until) pump(10);
    uint64_t end = wait_for((size_t)sent, UINT64_MAX);
    printf("ECHOED sent=%ld seconds=%.3f ", sent, (double)(end - begin) / 1e9);
    tell_arrivals();
}

static void obey(const char *line) {
    unsigned long wanted;
    double seconds;
    if (sscanf(line, "expect %lu %lf", &wanted, &seconds) == 2)
        expect(wanted, seconds);
    else if (sscanf(line, "echo %lf", &seconds) == 1)
        echo(seconds);
    else if (!strcmp(line, "ask"))
        ask();
    else
        fprintf(stderr, "loadgen: what is %s?\n", line);
    fflush(stdout);
}

// Reads standard input and obeys every complete line of it; false at its end.
static bool read_commands(void) {
    static char text[256];
    static size_t length;
    ssize_t n = read(STDIN_FILENO, text + length, sizeof text - 1 - length);
    if (n <= 0) return false;
    length += (size_t)n;
    text[length] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        obey(line);
        line = end + 1;
    }
    length -= (size_t)(line - text);
    memmove(text, line, length);
    return true;
}

int main(int argc, char **argv) {
    const char *mode = argc == 6 ? argv[3] : "";
    polling = !strcmp(mode, "poll");
    websocket = !strcmp(mode, "ws");
    if (!polling && !websocket && strcmp(mode, "stream")) {
        fprintf(stderr, "usage: loadgen PORT COUNT stream|poll|ws PATH RATE\n");
        return 2;
    }
    server.sin_port = htons((uint16_t)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    count = (uint32_t)atoi(argv[2]);
    rate = atof(argv[5]);
    request_length = snprintf(
        request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n%s\r\n", argv[4],
        argv[1],
        polling     ? "Accept: */*\r\n"
        : websocket ? "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                    : "Accept: text/event-stream\r\n");
    connections = calloc(count, sizeof *connections);
    epoll = epoll_create1(0);
    if (!connections || epoll < 0 || request_length >= (int)sizeof request) {
        fprintf(stderr, "loadgen: no memory, no epoll, or too long a path\n");
        return 1;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = STDIN_EVENT};
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e);

    connect_all();
    printf("READY connected=%ld failed=%ld\n", ready, failed);
    fflush(stdout);
    for (;;)
        if (pump(-1) && !read_commands()) return 0;
}
