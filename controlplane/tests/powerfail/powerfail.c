/* A disk that loses power, breaks or is full: LD_PRELOAD for one process.
 *
 * Files under $PF_DIR are watched. Each write that no fsync or fdatasync has covered yet is remembered
 * with the bytes it replaced. At the power cut those writes are taken back, newest first, and the
 * process ends with status 9, as if the machine had: what is left on the real disk is what a real one
 * would have.
 *
 *   PF_CUTSYNC=n  cut at the entry of the n-th sync (then there is always something not yet synced)
 *   PF_RAND=seed  each 4 KiB page of a write is lost or kept by the toss of a coin (without: all lost)
 *   PF_EIO=n      the n-th sync fails with EIO, once, as the kernel reports it
 *   PF_ROOM=n     the disk is full after n bytes were written: a half write, then ENOSPC
 *   PF_LOG=file   one line about the cut is appended there
 *
 * Generous where it does not matter here: creating, renaming and removing files is durable at once.
 * Not seen: mmap, O_DIRECT, and system calls made without libc (rustix: fallocate).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define FILES_MAX 4096

/* A write that is not durable. */
struct write {
    ino_t inode;
    off_t offset;
    size_t length;
    size_t old_length; /* less than length where the file grew */
    unsigned char *old;
    struct write *previous;
};

/* A file, and how long it is durably. */
struct file {
    ino_t inode;
    off_t synced_size;
    char path[512];
};

static struct write *newest;
static struct file files[FILES_MAX];
static int file_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char dir[512];
static int watching, tossing;
static unsigned seed;
static long cut_at = -1, eio_at = -1, room = -1, syncs;

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);

static long number(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : -1;
}

__attribute__((constructor)) static void start(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    const char *name = getenv("PF_DIR");
    char real[4096];
    if (name && realpath(name, real) && strlen(real) < sizeof dir) {
        strcpy(dir, real);
        watching = 1;
    }
    cut_at = number("PF_CUTSYNC");
    eio_at = number("PF_EIO");
    room = number("PF_ROOM");
    if (getenv("PF_RAND")) {
        tossing = 1;
        seed = (unsigned)number("PF_RAND");
    }
}

/* Whether the descriptor is of something under the directory; its path. */
static int is_watched(int fd, struct stat *st, char path[512]) {
    if (!watching || fstat(fd, st)) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 511);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

static struct file *known(int fd, struct stat *st) {
    char path[512];
    if (!is_watched(fd, st, path) || !S_ISREG(st->st_mode)) return NULL;
    struct file *file = NULL;
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == st->st_ino) file = &files[i];
    if (!file) {
        if (file_count == FILES_MAX) abort();
        file = &files[file_count++];
        file->inode = st->st_ino;
        file->synced_size = st->st_size;
    }
    strcpy(file->path, path); /* it may have been renamed */
    return file;
}

static void remember(int fd, const struct stat *st, off_t offset, size_t length) {
    struct write *w = calloc(1, sizeof *w);
    w->inode = st->st_ino;
    w->offset = offset;
    w->length = length;
    if (offset < st->st_size) {
        w->old_length = offset + (off_t)length > st->st_size ? (size_t)(st->st_size - offset) : length;
        w->old = malloc(w->old_length);
        if (real_pread(fd, w->old, w->old_length, offset) != (ssize_t)w->old_length) abort();
    }
    w->previous = newest;
    newest = w;
}

static void forget(ino_t inode) {
    for (struct write **at = &newest; *at;) {
        struct write *w = *at;
        if (w->inode != inode) {
            at = &w->previous;
            continue;
        }
        *at = w->previous;
        free(w->old);
        free(w);
    }
}

static int is_lost(void) { return !tossing || (rand_r(&seed) & 1); }

/* Takes a write back, page by page. Returns how many pages were kept. */
static unsigned long undo(const struct write *w, int fd) {
    unsigned long kept = 0;
    for (size_t done = 0; done < w->length;) {
        size_t some = PAGE - (size_t)((w->offset + (off_t)done) % PAGE);
        if (some > w->length - done) some = w->length - done;
        if (is_lost()) {
            unsigned char page[PAGE] = {0};
            for (size_t i = 0; i < some && done + i < w->old_length; i++) page[i] = w->old[done + i];
            if (real_pwrite(fd, page, some, w->offset + (off_t)done) < 0) abort();
        } else {
            kept++;
        }
        done += some;
    }
    return kept;
}

static void cut(void) {
    unsigned long writes = 0, kept = 0;
    for (struct write *w = newest; w; w = w->previous)
        for (int i = 0; i < file_count; i++) {
            struct stat st;
            if (files[i].inode != w->inode) continue;
            int fd = open(files[i].path, O_RDWR);
            if (fd < 0) continue;
            if (!fstat(fd, &st) && st.st_ino == w->inode) {
                writes++;
                kept += undo(w, fd);
            }
            close(fd);
        }
    for (int i = 0; i < file_count; i++) {
        struct stat st;
        if (stat(files[i].path, &st) || st.st_ino != files[i].inode) continue;
        if (st.st_size > files[i].synced_size && is_lost() && truncate(files[i].path, files[i].synced_size)) abort();
    }
    const char *log = getenv("PF_LOG");
    FILE *out = log ? fopen(log, "a") : NULL;
    if (out) {
        fprintf(out, "writes=%lu kept_pages=%lu syncs=%ld\n", writes, kept, syncs);
        fclose(out);
    }
    syscall(SYS_exit_group, 9);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    if (!watching) return real_pwrite(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    struct stat st;
    ssize_t result;
    struct file *file = known(fd, &st);
    if (file && room == 0) {
        errno = ENOSPC;
        result = -1;
    } else {
        if (file && room > 0 && (long)length > room) length = (size_t)room;
        if (file) remember(fd, &st, offset, length);
        result = real_pwrite(fd, bytes, length, offset);
        if (file && room > 0 && result > 0) room -= result;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct stat st;
    char path[512];
    if (!is_watched(fd, &st, path) || !S_ISREG(st.st_mode)) return real_write(fd, bytes, length);
    off_t offset = fcntl(fd, F_GETFL) & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t result = pwrite64(fd, bytes, length, offset);
    if (result > 0) lseek(fd, offset + result, SEEK_SET);
    return result;
}

int ftruncate64(int fd, off_t length) {
    if (!watching) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    struct stat st;
    if (known(fd, &st) && length < st.st_size) remember(fd, &st, length, (size_t)(st.st_size - length));
    int result = real_ftruncate(fd, length);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_with(int (*real)(int), int fd) {
    struct stat st;
    char path[512];
    pthread_mutex_lock(&lock);
    if (!is_watched(fd, &st, path)) {
        pthread_mutex_unlock(&lock);
        return real(fd);
    }
    struct file *file = known(fd, &st);
    syncs++;
    if (syncs == cut_at) cut();
    int result;
    if (syncs == eio_at) {
        errno = EIO;
        result = -1;
    } else {
        result = real(fd);
        if (file && !result) {
            forget(file->inode);
            fstat(fd, &st);
            file->synced_size = st.st_size;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_with(real_fsync, fd); }

int fdatasync(int fd) { return sync_with(real_fdatasync, fd); }
