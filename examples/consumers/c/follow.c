/* A program that follows models/NAME/current.json and loads what it names: cc -O2 -o follow follow.c
 * follow DATA/models/NAME PORT RUN: looks every second, and at once on SIGHUP; what it could not load it leaves alone and
 * serves on. RUN/generation says what it serves (the ready check reads it), RUN/pid where to send the signal. */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *model; static long generation;
static void on_hangup(int number) { (void)number; } /* it only ends poll() */

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb"); char *text = calloc(1, 1 << 20);
    if (!file || !text || !fread(text, 1, (1 << 20) - 1, file)) { free(text); text = NULL; }
    if (file) fclose(file);
    return text;
}
static void write_file(const char *folder, const char *name, long value) { /* whole or not at all */
    char path[4096], part[4096]; FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name); snprintf(part, sizeof part, "%s/.%s", folder, name);
    if (!(file = fopen(part, "w"))) return;
    fprintf(file, "%ld\n", value); fclose(file); rename(part, path);
}
static void follow(const char *folder, const char *run) {
    char path[4096], *pointer, *found, *loaded, version[128];
    snprintf(path, sizeof path, "%s/current.json", folder);
    if (!(pointer = read_file(path))) return;
    found = strstr(pointer, "\"generation\": ");           /* the daemon writes it in one way only */
    long next = found ? atol(found + 14) : 0;
    found = strstr(pointer, "\"path\": \"");                /* the first is what serves, the second what did before */
    if (next != generation && found && sscanf(found + 9, "%127[0-9a-f-]", version) == 1) {
        snprintf(path, sizeof path, "%s/%s/model.txt", folder, version);
        loaded = read_file(path);
        if (loaded && !strncmp(loaded, "model ", 6)) {      /* here a real one would be checked and set up */
            free(model); model = loaded; generation = next;
            write_file(run, "generation", generation);
        } else free(loaded);
    }
    free(pointer);
}
int main(int count, char **arguments) {
    if (count != 4) return fprintf(stderr, "usage: follow DATA/models/NAME PORT RUN\n"), 2;
    struct sigaction action = {.sa_handler = on_hangup}; sigaction(SIGHUP, &action, NULL); signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0); setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 64)) return perror("listen"), 1;
    write_file(arguments[3], "pid", getpid());
    for (struct pollfd waiting = {listener, POLLIN, 0};;) {
        follow(arguments[1], arguments[3]);
        if (poll(&waiting, 1, 1000) <= 0) continue;
        int client = accept(listener, NULL, NULL);
        dprintf(client, "%s\n", model ? model : "no model yet"); close(client);
    }
}
