/*
 * chaos_control.c - the control socket: a line in, a line out (chaos.h).
 *
 * A client has one line under way: its next is looked at when the answer to the last has been written, so a client
 * that asks and never reads costs one answer's memory.
 */
#include "chaos.h"

#include <uv.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG      64
#define CLIENTS_MOST 64u

struct client {
    uv_pipe_t pipe;
    uv_write_t write;
    struct control *control;
    struct client *next, *previous;
    char line[CHAOS_LINE_MOST]; /* what was read and not yet answered */
    size_t size;
    char *answer; /* being written */
    bool last;    /* nothing is carried out after this answer */
    bool quits, closing;
};

struct control {
    uv_pipe_t listener;
    uv_loop_t *loop;
    struct address_socket socket;
    struct proxy *proxy;
    struct client *clients;
    unsigned count;
    void (*quit)(void *arg);
    void *arg;
    bool open, full, stopping;
};

static void control_accept(struct control *control);
static void client_look(struct client *client);

static void on_client_closed(uv_handle_t *handle)
{
    struct client *client = handle->data;
    struct control *control = client->control;

    if (client->previous)
        client->previous->next = client->next;
    else
        control->clients = client->next;
    if (client->next)
        client->next->previous = client->previous;
    free(client->answer);
    free(client);
    control->count--;
    if (control->full && !control->stopping)
        control_accept(control);
}

static void client_close(struct client *client)
{
    if (client->closing)
        return;
    client->closing = true;
    uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void on_answered(uv_write_t *request, int status)
{
    struct client *client = request->data;

    free(client->answer);
    client->answer = NULL;
    if (client->closing)
        return;
    if (client->quits)
        client->control->quit(client->control->arg);
    else if (status != 0)
        client_close(client);
    else
        client_look(client);
}

/* Send an answer, which becomes the client's to free; nothing is read meanwhile. */
static void client_answer(struct client *client, char *answer)
{
    uv_buf_t bufs[2];

    if (!answer) {
        client_close(client);
        return;
    }
    (void)uv_read_stop((uv_stream_t *)&client->pipe);
    client->answer = answer;
    client->write.data = client;
    bufs[0] = uv_buf_init(answer, (unsigned)strlen(answer));
    bufs[1] = uv_buf_init("\n", 1);
    if (uv_write(&client->write, (uv_stream_t *)&client->pipe, bufs, 2, on_answered) != 0)
        client_close(client);
}

/* ---- lines ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *client = handle->data;

    (void)suggested;
    *buf = uv_buf_init(client->line + client->size, (unsigned)(sizeof client->line - client->size));
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf)
{
    struct client *client = stream->data;

    (void)buf;
    if (size < 0) { /* what it said before has been answered */
        client_close(client);
        return;
    }
    client->size += (size_t)size;
    client_look(client);
}

/* Carry out the first whole line, or read on for it. */
static void client_look(struct client *client)
{
    char *end = memchr(client->line, '\n', client->size);
    char line[CHAOS_LINE_MOST];
    size_t size;

    if (client->last || (!end && client->size < sizeof client->line)) {
        int rc = client->last ? UV_EOF : uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read);

        if (rc != 0 && rc != UV_EALREADY)
            client_close(client);
        return;
    }
    if (!end) {
        client->last = true;
        client_answer(client, strdup("ERR the line is too long: a command has at most 1023 bytes"));
        return;
    }
    size = (size_t)(end - client->line);
    memcpy(line, client->line, size);
    line[size] = '\0';
    client->size -= size + 1;
    memmove(client->line, end + 1, client->size);
    if (strlen(line) != size)
        client_answer(client, strdup("ERR a zero byte in the line: send text"));
    else
        client_answer(client, proxy_command(client->control->proxy, line, &client->quits));
}

static void control_accept(struct control *control)
{
    struct client *client = control->count < CLIENTS_MOST ? calloc(1, sizeof *client) : NULL;

    control->full = !client;
    if (!client)
        return;
    client->control = control;
    client->next = control->clients;
    if (client->next)
        client->next->previous = client;
    control->clients = client;
    control->count++;
    (void)uv_pipe_init(control->loop, &client->pipe, 0);
    client->pipe.data = client;
    if (uv_accept((uv_stream_t *)&control->listener, (uv_stream_t *)&client->pipe) != 0)
        client_close(client);
    else
        client_look(client);
}

static void on_connection(uv_stream_t *stream, int status)
{
    if (status == 0)
        control_accept(stream->data);
}

/* ---- open and close ---- */

struct control *control_open(struct proxy *proxy, const struct proxy_options *options, void (*quit)(void *arg),
                             void *arg, char why[CHAOS_WHY_MOST])
{
    struct control *control = calloc(1, sizeof *control);
    int rc;

    if (!control) {
        snprintf(why, CHAOS_WHY_MOST, "no memory");
        return NULL;
    }
    control->loop = options->loop;
    control->proxy = proxy;
    control->quit = quit;
    control->arg = arg;
    control->socket = (struct address_socket){.address = options->control, .fd = -1, .holder = -1};
    if (!address_bind(&control->socket, why)) {
        free(control);
        return NULL;
    }
    (void)uv_pipe_init(control->loop, &control->listener, 0);
    control->listener.data = control;
    control->open = true;
    if ((rc = uv_pipe_open(&control->listener, control->socket.fd)) != 0)
        close(control->socket.fd);
    else if ((rc = uv_listen((uv_stream_t *)&control->listener, BACKLOG, on_connection)) == 0)
        return control;
    snprintf(why, CHAOS_WHY_MOST, "cannot listen at unix:%.108s: %s", options->control.at.un.sun_path, uv_strerror(rc));
    control_stop(control);
    (void)uv_run(control->loop, UV_RUN_NOWAIT);
    control_close(control);
    return NULL;
}

void control_stop(struct control *control)
{
    control->stopping = true;
    if (control->open)
        uv_close((uv_handle_t *)&control->listener, NULL);
    control->open = false;
    for (struct client *client = control->clients; client; client = client->next)
        client_close(client);
    address_release(&control->socket);
}

void control_close(struct control *control)
{
    free(control);
}
