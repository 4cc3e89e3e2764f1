// Simulates faults of a disk (power loss, failing, slow, full) and of a wall clock for one process: preloaded
// into it (LD_PRELOAD).
//
// Every write to a regular file under PF_DIR is recorded with the previous content until the file is
// fsynced. On a power cut the recorded writes are undone, newest first, and the process exits with
// status 9. Synced data is kept; other data is lost.
//
//   PF_DIR=dir      files under this directory are affected
//   PF_RAND=seed    each 4 KiB page of an unsynced write is kept or lost at random (torn writes, in any
//                   order); without it all are lost
//   PF_CUTSYNC=n    cut at the entry of the n-th fsync or fdatasync, so that there is always something to lose
//   PF_LIE=1        fsync succeeds without effect: a lying disk, to verify that losses are detected
//   PF_EIO=n        the n-th sync of a file or directory fails once with EIO, as the kernel reports it
//   PF_ROOM=n       the disk is full after n bytes were written: a short write, then ENOSPC
//   PF_CTL=file     read on each sync: "eio" = this and all later ones fail, "slow MS" = it takes this many
//                   milliseconds longer; anything else or no file = no effect
//   PF_CLOCK=file   four signed 64-bit numbers, mapped: offset of CLOCK_REALTIME, nanoseconds; its drift,
//                   millionths of the time since the third number, a CLOCK_MONOTONIC time in nanoseconds;
//                   amplitude of a random error of each reading, nanoseconds. Other clocks are correct
//   PF_LOG=file     one line per cut: what was undone
//   SIGUSR2         cut at the entry of the next fsync, or after 200 ms, whichever is first
//
// Model. fsync and fdatasync make a file's data and size durable; sync_file_range does not (man 2
// sync_file_range). Creating, renaming and unlinking are durable at once (in the program's favour).
// Not covered: mmap, O_DIRECT, io_uring, copy_file_range and raw system calls that bypass libc.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define FILES_MAX 1024

// A write that is not durable yet: `old_len` bytes of `old` were at `off` before `len` new ones.
typedef struct Undo {
  int file;
  off_t off;
  size_t len, old_len;
  unsigned char *old;
  struct Undo *older;
} Undo;

// A known file. `fd` is a separate descriptor: it survives rename, and keeps the inode from being reused.
typedef struct {
  int used, fd;
  dev_t dev;
  ino_t ino;
  off_t synced_size;
} File;

static File files[FILES_MAX];
static Undo *newest;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t pulled;
static volatile int cut;
static char dir[4096];
static size_t dir_len;
static int random_pages, lying;
static unsigned seed;
static long cut_at_sync = -1, eio_at = -1, room = -1, syncs;
static const char *control;
// The error of the clock.
typedef struct {
  int64_t ahead, drift, since, lies;
} Wrong;
static const volatile Wrong *wrong;

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off_t);

static void power_off(void);

static void on_signal(int signal) {
  (void)signal;
  cut = 1;
  sem_post(&pulled);
}

// Cuts the power 200 ms after the signal if there was no fsync to cut at.
static void *watcher(void *unused) {
  (void)unused;
  while (sem_wait(&pulled) != 0) {}
  nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
  pthread_mutex_lock(&lock);
  power_off();
  return NULL;
}

__attribute__((constructor)) static void start(void) {
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_pread = dlsym(RTLD_NEXT, "pread64");
  real_write = dlsym(RTLD_NEXT, "write");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  const char *wanted = getenv("PF_DIR");
  if (!wanted || !realpath(wanted, dir)) return;
  dir_len = strlen(dir);
  if (getenv("PF_RAND")) {
    random_pages = 1;
    seed = (unsigned)atol(getenv("PF_RAND"));
  }
  lying = getenv("PF_LIE") != NULL;
  if (getenv("PF_CUTSYNC")) cut_at_sync = atol(getenv("PF_CUTSYNC"));
  if (getenv("PF_EIO")) eio_at = atol(getenv("PF_EIO"));
  if (getenv("PF_ROOM")) room = atol(getenv("PF_ROOM"));
  control = getenv("PF_CTL");
  const char *clock = getenv("PF_CLOCK");
  int fd = clock ? open(clock, O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    void *mapped = mmap(NULL, sizeof *wrong, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) wrong = mapped;
    close(fd);
  }
  sem_init(&pulled, 0, 0);
  pthread_t thread;
  pthread_create(&thread, NULL, watcher, NULL);
  pthread_detach(thread);
  signal(SIGUSR2, on_signal);
}

// Forgets unlinked files: their content cannot reappear.
static void forget_unlinked(void) {
  struct stat st;
  for (int i = 0; i < FILES_MAX; i++) {
    if (!files[i].used || fstat(files[i].fd, &st) || st.st_nlink > 0) continue;
    for (Undo **at = &newest; *at;) {
      Undo *undo = *at;
      if (undo->file == i) {
        *at = undo->older;
        free(undo->old);
        free(undo);
      } else {
        at = &undo->older;
      }
    }
    close(files[i].fd);
    files[i].used = 0;
  }
}

// The index of a file's record, or -1 if the file is not affected. Fills `st`.
static int file_of(int fd, struct stat *st) {
  if (!dir_len || fstat(fd, st) || !S_ISREG(st->st_mode)) return -1;
  for (int i = 0; i < FILES_MAX; i++)
    if (files[i].used && files[i].ino == st->st_ino && files[i].dev == st->st_dev) return i;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return -1;
  path[n] = 0;
  if (strncmp(path, dir, dir_len) || path[dir_len] != '/') return -1;
  forget_unlinked();
  for (int i = 0; i < FILES_MAX; i++) {
    if (files[i].used) continue;
    int own = open(link, O_RDWR | O_CLOEXEC);
    if (own < 0) return -1;
    files[i] = (File){1, own, st->st_dev, st->st_ino, st->st_size};
    return i;
  }
  fprintf(stderr, "powerfail: more than %d files\n", FILES_MAX);
  abort();
}

static void remember(int file, const struct stat *st, off_t off, size_t len) {
  Undo *undo = calloc(1, sizeof *undo);
  if (!undo) abort();
  *undo = (Undo){.file = file, .off = off, .len = len, .older = newest};
  if (off < st->st_size) {
    undo->old_len = off + (off_t)len > st->st_size ? (size_t)(st->st_size - off) : len;
    undo->old = malloc(undo->old_len);
    if (!undo->old) abort();
    if (real_pread(files[file].fd, undo->old, undo->old_len, off) < 0) abort();
  }
  newest = undo;
}

static void synced(int file) {
  for (Undo **at = &newest; *at;) {
    Undo *undo = *at;
    if (undo->file == file) {
      *at = undo->older;
      free(undo->old);
      free(undo);
    } else {
      at = &undo->older;
    }
  }
  struct stat st;
  if (!fstat(files[file].fd, &st)) files[file].synced_size = st.st_size;
}

static int lost(void) { return !random_pages || (rand_r(&seed) & 1); }

// Restores the content before a write, page by page.
static unsigned long take_back(const Undo *undo) {
  unsigned long pages = 0;
  unsigned char before[PAGE];
  for (size_t at = 0; at < undo->len;) {
    size_t n = PAGE - (size_t)((undo->off + (off_t)at) % PAGE);
    if (n > undo->len - at) n = undo->len - at;
    if (lost()) {
      memset(before, 0, sizeof before);
      if (at < undo->old_len)
        memcpy(before, undo->old + at, n < undo->old_len - at ? n : undo->old_len - at);
      ssize_t done = real_pwrite(files[undo->file].fd, before, n, undo->off + (off_t)at);
      (void)done;
      pages++;
    }
    at += n;
  }
  return pages;
}

// Cuts the power. Called with the lock held, so that no other thread can write or sync.
static void power_off(void) {
  unsigned long writes = 0, pages = 0, shortened = 0;
  struct stat st;
  for (Undo *undo = newest; undo; undo = undo->older, writes++) pages += take_back(undo);
  for (int i = 0; i < FILES_MAX; i++) {
    if (!files[i].used || fstat(files[i].fd, &st) || st.st_size <= files[i].synced_size) continue;
    if (lost() && real_ftruncate(files[i].fd, files[i].synced_size) == 0) shortened++;
  }
  const char *path = getenv("PF_LOG");
  FILE *log = path ? fopen(path, "ae") : NULL;
  if (log) {
    fprintf(log, "cut: unsynced_writes=%lu pages_lost=%lu files_shortened=%lu syncs=%ld\n", writes,
            pages, shortened, syncs);
    fclose(log);
  }
  syscall(SYS_exit_group, 9);
}

// How much of a write fits; -1 with ENOSPC if nothing does.
static ssize_t fits(size_t len) {
  if (room < 0 || len == 0) return (ssize_t)len;
  if (room == 0) {
    errno = ENOSPC;
    return -1;
  }
  return (long)len > room ? room : (ssize_t)len;
}

// Positioned writes.
static ssize_t at_offset(int fd, const void *data, size_t len, off_t off) {
  if (!dir_len) return real_pwrite(fd, data, len, off);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st);
  ssize_t done = file >= 0 ? fits(len) : (ssize_t)len;
  if (done >= 0) {
    len = (size_t)done;
    if (file >= 0) remember(file, &st, off, len);
    done = real_pwrite(fd, data, len, off);
    if (file >= 0 && room > 0 && done > 0) room -= done;
  }
  pthread_mutex_unlock(&lock);
  return done;
}

static off_t position(int fd, const struct stat *st) {
  return fcntl(fd, F_GETFL) & O_APPEND ? st->st_size : lseek(fd, 0, SEEK_CUR);
}

static size_t total(const struct iovec *parts, int count) {
  size_t len = 0;
  for (int i = 0; i < count; i++) len += parts[i].iov_len;
  return len;
}

// Whether the descriptor is that of an affected directory.
static int is_our_dir(int fd) {
  struct stat st;
  char link[64], path[4096];
  if (fstat(fd, &st) || !S_ISDIR(st.st_mode)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
}

// Applies the control file: sleeps if it contains slow, returns 1 if it contains eio.
static int controlled(void) {
  char text[64];
  int fd = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  if (!strncmp(text, "slow ", 5)) {
    long ms = atol(text + 5);
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
  }
  return !strncmp(text, "eio", 3);
}

static int sync_with(int fd, int (*real)(int)) {
  if (!dir_len) return real(fd);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st), ours = file >= 0 || is_our_dir(fd), failed = 0;
  if (ours && control) {
    // Not under the lock, which writes to sockets take, too.
    pthread_mutex_unlock(&lock);
    failed = controlled();
    pthread_mutex_lock(&lock);
  }
  if (ours && (++syncs == cut_at_sync || cut)) power_off();
  if (failed || (ours && syncs == eio_at)) {
    pthread_mutex_unlock(&lock);
    errno = EIO;
    return -1;
  }
  int result = real(fd);
  if (file >= 0 && result == 0 && !lying) synced(file);
  pthread_mutex_unlock(&lock);
  return result;
}

ssize_t pwrite64(int fd, const void *data, size_t len, off_t off) {
  return at_offset(fd, data, len, off);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t off) {
  return at_offset(fd, data, len, off);
}

ssize_t write(int fd, const void *data, size_t len) {
  if (!dir_len) return real_write(fd, data, len);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st);
  if (file >= 0) {
    ssize_t some = fits(len);
    if (some < 0) {
      pthread_mutex_unlock(&lock);
      return -1;
    }
    len = (size_t)some;
    remember(file, &st, position(fd, &st), len);
    if (room > 0) room -= some;
  }
  // Not under the lock for pipes and sockets, which may block forever.
  if (file < 0) pthread_mutex_unlock(&lock);
  ssize_t done = real_write(fd, data, len);
  if (file >= 0) pthread_mutex_unlock(&lock);
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!dir_len) return real_writev(fd, parts, count);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st);
  if (file >= 0) remember(file, &st, position(fd, &st), total(parts, count));
  if (file < 0) pthread_mutex_unlock(&lock);
  ssize_t done = real_writev(fd, parts, count);
  if (file >= 0) pthread_mutex_unlock(&lock);
  return done;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t off) {
  if (!dir_len) return real_pwritev(fd, parts, count, off);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st);
  if (file >= 0) remember(file, &st, off, total(parts, count));
  ssize_t done = real_pwritev(fd, parts, count, off);
  pthread_mutex_unlock(&lock);
  return done;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t off) {
  return pwritev64(fd, parts, count, off);
}

int fsync(int fd) { return sync_with(fd, real_fsync); }

int fdatasync(int fd) { return sync_with(fd, real_fdatasync); }

int ftruncate64(int fd, off_t len) {
  if (!dir_len) return real_ftruncate(fd, len);
  struct stat st;
  pthread_mutex_lock(&lock);
  int file = file_of(fd, &st);
  if (file >= 0 && len < st.st_size) remember(file, &st, len, (size_t)(st.st_size - len));
  int result = real_ftruncate(fd, len);
  pthread_mutex_unlock(&lock);
  return result;
}

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

// Rust's standard library uses no other function for the wall clock.
int clock_gettime(clockid_t id, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, now);
  if (result || !wrong || id != CLOCK_REALTIME) return result;
  int64_t ahead = wrong->ahead;
  if (wrong->drift) {
    struct timespec steady;
    real(CLOCK_MONOTONIC, &steady);
    ahead += (steady.tv_sec * 1000000000 + steady.tv_nsec - wrong->since) / 1000000 * wrong->drift;
  }
  if (wrong->lies) {
    static _Atomic uint64_t asked;
    uint64_t dice = ++asked * 0x9e3779b97f4a7c15;
    ahead += (int64_t)((dice ^ dice >> 29) % (2 * (uint64_t)wrong->lies)) - wrong->lies;
  }
  int64_t nanos = now->tv_nsec + ahead % 1000000000;
  now->tv_sec += ahead / 1000000000 + (nanos < 0 ? -1 : nanos / 1000000000);
  now->tv_nsec = (nanos % 1000000000 + 1000000000) % 1000000000;
  return 0;
}
