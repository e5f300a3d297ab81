// What a program does to its descriptors, as cases that run under daxfs-run. Each is called in a
// process of its own:
//
//     daxfs-run --after=1 run_cases CASE DIRECTORY
//
// DIRECTORY has a file `f` of 64 KiB of 'f'. Exit status 1: what is wrong is on standard error.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/run/case_helpers.h"

extern char** environ;

using namespace daxfs::test;

namespace {

void position(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect_bytes(read_here(fd, 4), "ffff");
  expect(write(fd, "abcd", 4), 4);
  expect(lseek(fd, 0, SEEK_CUR), 8);
  const int copy = dup(fd);
  expect(lseek(copy, -4, SEEK_CUR), 4);
  expect_bytes(read_here(fd, 4), "abcd");
  expect(write(copy, "efgh", 4), 4);
  expect(lseek(fd, 0, SEEK_CUR), 12);
  expect(close(fd), 0);
  expect_bytes(read_at(copy, 4, 8), "abcdefgh");
  expect(lseek(copy, 65534, SEEK_SET), 65534);
  expect_bytes(read_here(copy, 10), "ff");
  expect(lseek(copy, 0, SEEK_CUR), 65536);
  expect_bytes(read_here(copy, 10), "");
  expect(close(copy), 0);
  expect_error(close(copy), EBADF);
}

void fork_shares_position(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect(write(fd, "one ", 4), 4);
  expect_child([&] {
    expect(write(fd, "two ", 4), 4);
    // As often as it takes to attach anew.
    for (int i = 0; i < 10; ++i) expect_bytes(read_at(fd, 0, 8), "one two ");
    expect(pwrite(fd, "TWO", 3, 4), 3);
    expect(close(fd), 0);
  });
  expect(write(fd, "three", 5), 5);
  expect_bytes(read_at(fd, 0, 13), "one TWO three");
}

// A child has read what comes next, by a program of its own.
void exec_keeps_position(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect(write(fd, "for me: for the child: rest", 27), 27);
  expect(lseek(fd, 0, SEEK_SET), 0);
  expect_bytes(read_here(fd, 8), "for me: ");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd, 0);
  const std::string command = "test \"$(head -c 15)\" = 'for the child: '";
  std::array<char*, 4> words{const_cast<char*>("sh"), const_cast<char*>("-c"),
                             const_cast<char*>(command.c_str()), nullptr};
  pid_t child = 0;
  expect(posix_spawnp(&child, "sh", &actions, nullptr, words.data(), environ), 0);
  expect_ends_well(child);
  expect_bytes(read_here(fd, 4), "rest");
}

// Not inlined where vfork() is: the compiler fears for its variables.
[[gnu::noinline]] int count_descriptors() {
  int count = 0;
  for (int fd = 0; fd < 5000; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

void vfork_leaves_the_parent_alone(const std::string& path) {
  const int at_first = count_descriptors();
  struct stat before = {};
  expect(fstat(1, &before), 0);
  const int fd = opened(path, O_RDWR);
  expect(pwrite(fd, "before", 6, 0), 6);
  const pid_t child = vfork();
  if (child == 0) {
    dup2(fd, 1);
    close(fd);
    execlp("sh", "sh", "-c", "printf after >&1", nullptr);
    _exit(9);
  }
  expect_ends_well(child);
  expect_bytes(read_at(fd, 0, 6), "aftere");
  expect(pwrite(fd, "BEFORE", 6, 100), 6);
  expect_bytes(read_at(fd, 100, 6), "BEFORE");
  struct stat status = {};
  expect(fstat(1, &status), 0);
  if (status.st_ino != before.st_ino) fail("standard output has become the file");
  expect(close(fd), 0);
  expect(count_descriptors(), at_first);
}

void closefrom_spares_others(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect_bytes(read_at(fd, 0, 1), "f");
  closefrom(fd + 1);
  for (int i = fd + 1; i < 5000; ++i) close(i);
  expect(close_range(static_cast<unsigned>(fd) + 1, ~0u, 0), 0);
  expect(pwrite(fd, "still", 5, 0), 5);
  expect_bytes(read_at(fd, 0, 5), "still");
  expect(pwrite(fd, "longer", 6, 70'000), 6);  // by the library's descriptor
  expect_bytes(read_at(fd, 70'000, 10), "longer");
  // Where the library has one of its own, the program may want that number.
  for (int i = fd + 1; i < 5000; ++i) {
    if (fcntl(i, F_GETFD) < 0) continue;
    expect(dup2(fd, i), i);
    expect(pwrite(i, "still", 5, 10), 5);
    expect_bytes(read_at(fd, 10, 5), "still");
  }
  closefrom(3);
  const int again = opened(path, O_RDWR);
  expect(again, 3);
  expect_bytes(read_at(again, 0, 5), "still");
  for (int i = 3; i < 5000; ++i) close(i);
  expect_error(pread(again, nullptr, 0, 0), EBADF);
}

void numbers_are_the_lowest(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect_bytes(read_at(fd, 0, 1), "f");
  const int next = opened("/dev/null", O_RDONLY);
  expect(next, fd + 1);
  expect(dup(fd), next + 1);
  close(0);
  expect(pwrite(fd, "x", 1, 0), 1);
  expect(opened("/dev/null", O_RDONLY), 0);
}

// The number is used again, for something else.
void numbers_come_again(const std::string& path) {
  int fd = opened(path, O_RDWR);
  expect(pwrite(fd, "first", 5, 0), 5);
  const int other = opened(path + "2", O_RDWR | O_CREAT);
  expect(dup2(other, fd), fd);
  expect(write(fd, "second", 6), 6);
  expect_bytes(read_at(other, 0, 6), "second");
  close(fd);
  int ends[2];
  expect(pipe(ends), 0);
  expect(write(ends[1], "pipe", 4), 4);
  expect_bytes(read_here(ends[0], 4), "pipe");
  close(ends[0]);
  fd = opened(path, O_RDWR);
  expect_bytes(read_at(fd, 0, 6), "firstf");
  std::FILE* const file = fdopen(fd, "r+");
  expect(std::fread(ends, 1, 5, file), 5);
  std::fclose(file);
  std::FILE* const another = std::fopen("/proc/self/comm", "r");
  expect(fileno(another), fd);
  expect_bytes(read_here(fd, 3), "run");
  std::fclose(another);
}

void append(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  const int by_copy = dup(fd);
  expect(pwrite(fd, "x", 1, 0), 1);
  expect(pwrite(by_copy, "y", 1, 0), 1);
  expect(fcntl(fd, F_SETFL, O_APPEND), 0);
  expect(write(fd, "end", 3), 3);
  expect(lseek(fd, 0, SEEK_CUR), 65539);
  expect(write(by_copy, "END", 3), 3);
  expect_bytes(read_at(fd, 65536, 10), "endEND");
  expect(fcntl(by_copy, F_SETFL, 0), 0);
  expect(pwrite(fd, "z", 1, 0), 1);
  // Through a copy that is not attached.
  expect(fcntl(fd, F_SETFL, O_APPEND), 0);
  const int late = dup(fd);
  expect_bytes(read_at(late, 0, 1), "z");
  expect(fcntl(fd, F_SETFL, 0), 0);
  expect(pwrite(fd, "Z", 1, 0), 1);
  expect(fcntl(late, F_SETFL, O_APPEND), 0);
  expect(pwrite(fd, "E", 1, 0), 1);
  expect_bytes(read_at(fd, 65536, 10), "endENDE");
  const int always = opened(path, O_WRONLY | O_APPEND);
  expect(write(always, "more", 4), 4);
  const iovec piece{const_cast<char*>("flag"), 4};
  expect(pwritev2(fd, &piece, 1, 0, RWF_APPEND), 4);
  expect_bytes(read_at(fd, 65536, 20), "endENDEmoreflag");
}

// The library's own descriptor of the file is closed as seldom as the program's: a close ends them.
void posix_locks_stay(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  expect(fcntl(fd, F_SETLK, &lock), 0);
  expect(pwrite(fd, "x", 1, 0), 1);
  expect_bytes(read_at(fd, 0, 1), "x");
  expect_child([&] {
    struct flock seen = {};
    seen.l_type = F_WRLCK;
    expect(fcntl(fd, F_GETLK, &seen), 0);
    expect(seen.l_type, F_WRLCK);
    expect(seen.l_pid, getppid());
  });
}

void same_errors(const std::string& path) {
  const int reader = opened(path, O_RDONLY);
  const int writer = opened(path, O_WRONLY);
  char byte = 'x';
  for (const int fd : {reader, writer}) {
    errno = ENOTTY;
    const bool reads = fd == reader;
    expect(reads ? pread(fd, &byte, 1, 0) : pwrite(fd, &byte, 1, 10), 1);
    expect(errno, ENOTTY);  // what succeeds leaves it alone
  }
  expect_bytes(read_at(reader, 0, 1), "f");
  expect(pwrite(writer, "y", 1, 0), 1);
  expect_error(pwrite(reader, &byte, 1, 0), EBADF);
  expect_error(write(reader, &byte, 1), EBADF);
  expect_error(pread(writer, &byte, 1, 0), EBADF);
  expect_error(read(writer, &byte, 1), EBADF);
  expect(lseek(writer, 0, SEEK_CUR), 0);
  expect_error(pread(reader, &byte, 1, -1), EINVAL);
  void* volatile nowhere = nullptr;
  expect_error(pread(reader, nowhere, 10, 0), EFAULT);
  expect_error(write(writer, nowhere, 10), EFAULT);
  const std::vector<iovec> many(1025, iovec{&byte, 1});
  expect_error(preadv(reader, many.data(), static_cast<int>(many.size()), 0), EINVAL);
  rlimit limit{65536, 65536};
  expect(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  expect_error(pwrite(writer, &byte, 1, 65536), EFBIG);
}

// Threads with descriptors of their own: the same number is another file in each.
void unshared_descriptors(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect_bytes(read_at(fd, 0, 2), "ff");
  std::thread([&] {
    expect(unshare(CLONE_FILES), 0);
    close(fd);
    expect(opened(path + "2", O_RDWR | O_CREAT), fd);
    expect(pwrite(fd, "other", 5, 0), 5);
  }).join();
  expect_bytes(read_at(fd, 0, 2), "ff");
}

void few_descriptors(const std::string& path) {
  rlimit limit{64, 64};
  expect(setrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<int> fds;
  for (int i = 0; i < 40; ++i) {
    fds.push_back(opened(path, O_RDWR));
    expect(pwrite(fds.back(), "few", 3, i * 10), 3);
  }
  for (int i = 0; i < 40; ++i)
    expect_bytes(read_at(fds[static_cast<std::size_t>(i)], i * 10, 3), "few");
}

std::atomic<int> handled;
int file_of_handler = -1;

void on_tick(int) {
  const int saved = errno;
  handled += 1;
  if (write(file_of_handler, "+", 1) != 1) _exit(8);
  char byte;
  if (pread(file_of_handler, &byte, 1, 0) != 1) _exit(8);
  errno = saved;
}

// A handler comes in the middle of copies, and writes itself: to the same descriptor, too.
void signal_handlers_write(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  file_of_handler = fd;
  expect_bytes(read_at(fd, 0, 1), "f");
  const std::string piece(20'000, '.');
  std::signal(SIGALRM, on_tick);
  const pthread_t self = pthread_self();
  std::atomic<bool> over{false};
  std::thread teaser([&] {
    while (!over) {
      pthread_kill(self, SIGALRM);
      usleep(200);
    }
  });
  sigset_t none;
  sigemptyset(&none);
  long written = 0;
  while (handled < 150) {
    lseek(fd, 0, SEEK_SET);
    const int before = handled;
    expect(write(fd, piece.data(), piece.size()), static_cast<long>(piece.size()));
    written += 1;
    const int meanwhile = handled - before;
    if (meanwhile == 0) continue;
    const std::string all = read_at(fd, 0, piece.size() + static_cast<std::size_t>(meanwhile));
    std::size_t dots = 0;
    for (const char c : all) dots += c == '.' ? 1 : 0;
    if (dots < piece.size() - 1)
      fail("a handler's byte lies in the middle: " + std::to_string(dots));
  }
  over = true;
  teaser.join();
}

// Threads open, use and close the same numbers.
void threads(const std::string& path) {
  std::vector<std::thread> all;
  std::atomic<bool> wrong{false};
  for (int t = 0; t < 4; ++t) {
    all.emplace_back([&, t] {
      const std::string mine = path + "t" + std::to_string(t);
      const std::string text(5000, static_cast<char>('a' + t));
      for (int i = 0; i < 60; ++i) {
        const int fd = open(mine.c_str(), O_RDWR | O_CREAT, 0644);
        if (pwrite(fd, text.data(), text.size(), i % 7) != 5000) wrong = true;
        for (int k = 0; k < 3; ++k) {
          std::string seen(5000, '?');
          if (pread(fd, seen.data(), seen.size(), i % 7) != 5000 || seen != text) wrong = true;
        }
        close(fd);
      }
    });
  }
  for (std::thread& one : all) one.join();
  if (wrong) fail("a thread has seen another one's file");
}

// Others close what a thread reads from.
void closed_meanwhile(const std::string& path) {
  std::atomic<int> current{-1};
  std::atomic<bool> over{false};
  std::atomic<bool> wrong{false};
  std::thread reader([&] {
    std::string seen(30'000, '?');
    while (!over) {
      const ssize_t n = pread(current, seen.data(), seen.size(), 0);
      if (n < 0 && errno != EBADF) wrong = true;
      if (n > 0 && seen.find_first_not_of('f') < static_cast<std::size_t>(n)) wrong = true;
    }
  });
  for (int i = 0; i < 150; ++i) {
    const int fd = opened(path, O_RDWR);
    expect_bytes(read_at(fd, 0, 1), "f");
    current = fd;
    if (i % 3 == 0) sched_yield();
    close(fd);
  }
  over = true;
  reader.join();
  if (wrong) fail("a reader has seen something else");
}

// A message of one byte, with room for a descriptor. It points into itself.
struct Passing {
  Passing() {
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = room.data();
    message.msg_controllen = room.size();
  }
  Passing(const Passing&) = delete;
  Passing& operator=(const Passing&) = delete;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> room{};
  char byte = 0;
  iovec piece{&byte, 1};
  msghdr message{};
};

void passed_to_a_child(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect(write(fd, "12345678", 8), 8);
  expect(lseek(fd, 2, SEEK_SET), 2);
  int ends[2];
  expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  expect_child([&] {
    Passing passing;
    msghdr& message = passing.message;
    cmsghdr* const control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
    expect(sendmsg(ends[0], &message, 0), 1);
    expect_bytes(read_here(fd, 2), "34");
  });
  Passing passing;
  msghdr& message = passing.message;
  expect(recvmsg(ends[1], &message, 0), 1);
  int got = -1;
  std::memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
  expect_bytes(read_here(got, 2), "56");
  expect_bytes(read_here(fd, 2), "78");
}

// Beside somebody who reads, writes and truncates the file by system calls.
void beside(const std::string& path) {
  const int fd = opened(path, O_RDWR);
  expect(pwrite(fd, "program", 7, 5000), 7);
  std::puts("written");
  std::fflush(stdout);
  struct stat status = {};
  while (fstat(fd, &status) == 0 && status.st_size != 9006) {
    const std::string seen = read_at(fd, 9000, 6);
    if (seen != "ffffff" && seen != "tester") usleep(100);  // in the middle of it
  }
  expect_bytes(read_at(fd, 9000, 100), "tester");
}

const std::map<std::string, void (*)(const std::string&)> kCases = {
    {"position", position},
    {"fork", fork_shares_position},
    {"exec", exec_keeps_position},
    {"vfork", vfork_leaves_the_parent_alone},
    {"closefrom", closefrom_spares_others},
    {"lowest", numbers_are_the_lowest},
    {"again", numbers_come_again},
    {"append", append},
    {"locks", posix_locks_stay},
    {"errors", same_errors},
    {"unshare", unshared_descriptors},
    {"few", few_descriptors},
    {"signals", signal_handlers_write},
    {"threads", threads},
    {"closed", closed_meanwhile},
    {"passed", passed_to_a_child},
    {"beside", beside},
};

}  // namespace

int main(int argc, char** argv) {
  const auto found = argc == 3 ? kCases.find(argv[1]) : kCases.end();
  if (found == kCases.end()) {
    std::fprintf(stderr, "usage: run_cases CASE DIRECTORY\n");
    return 2;
  }
  found->second(std::string(argv[2]) + "/f");
  return 0;
}
