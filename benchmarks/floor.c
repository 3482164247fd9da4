// The floor of a fan-out: a server that does nothing but send().
//
// usage: floor
//
// Says "PORT N" and listens there on 127.0.0.1. A connection that sends GET becomes a subscriber of
// a chunked response. What a connection sends after a "P", 100 bytes, goes to every subscriber as
// one chunk.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE 100
#define SUBSCRIBERS_MAX 65536

static int subscribers[SUBSCRIBERS_MAX], count;

static void subscribe(int fd) {
    static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    send(fd, head, sizeof head - 1, MSG_NOSIGNAL);
    if (count < SUBSCRIBERS_MAX) subscribers[count++] = fd;
}

static void leave(int fd) {
    close(fd);
    for (int i = 0; i < count; i++) {
        if (subscribers[i] == fd) {
            subscribers[i] = subscribers[--count];
            return;
        }
    }
}

static void publish(const char *message) {
    char chunk[4 + MESSAGE + 2] = "64\r\n";  // 64 is MESSAGE in hexadecimal
    memcpy(chunk + 4, message, MESSAGE);
    memcpy(chunk + 4 + MESSAGE, "\r\n", 2);
    for (int i = 0; i < count; i++) send(subscribers[i], chunk, sizeof chunk, MSG_NOSIGNAL);
}

static void accept_all(int listener, int epoll) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    if (bind(listener, (void *)&address, length) || listen(listener, 4096)) {
        perror("floor");
        return 1;
    }
    getsockname(listener, (void *)&address, &length);
    printf("PORT %d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener, epoll);
                continue;
            }
            char data[4096];
            ssize_t got = read(fd, data, sizeof data);
            if (got <= 0)
                leave(fd);
            else if (data[0] == 'P' && got == 1 + MESSAGE)
                publish(data + 1);
            else if (!strncmp(data, "GET ", 4))
                subscribe(fd);
        }
    }
}
