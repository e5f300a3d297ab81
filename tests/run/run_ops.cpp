// Random calls on files of a directory, and the same calls on files of another one, which is the
// oracle: what they return, errno, bytes, positions and sizes are compared after each.
//
//     daxfs-run --after=1 run_ops DIRECTORY ORACLE CALLS SEED
//
// Exit status 1: a difference, which is printed with the seed and the last calls.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kFiles = 3;
constexpr std::size_t kHandles = 8;
constexpr off_t kLargest = 300'000;
constexpr std::size_t kMost = 70'000;  // of one call
constexpr off_t kPage = 4096;

// Wrong arguments, which the compiler is not to see.
void* volatile nowhere = nullptr;
volatile int wrong_count = -1;

// What a call came to.
struct Outcome {
  long result = 0;
  int error = 0;
  std::string bytes;
  bool operator==(const Outcome&) const = default;
};

Outcome outcome(long result, std::string bytes = {}) {
  return {result, result < 0 ? errno : 0, std::move(bytes)};
}

// A mapping of one page, and of which file.
struct View {
  char* at = nullptr;
  std::size_t file = 0;
  off_t page = 0;
};

struct Side {
  std::string directory;
  std::array<int, kHandles> fds;
  View view;
  std::string path(std::size_t file) const { return directory + "/ops" + std::to_string(file); }
};

std::string text_of(std::size_t length, unsigned salt) {
  std::string text(length, ' ');
  for (std::size_t i = 0; i < length; ++i)
    text[i] = static_cast<char>('!' + (i * 7 + salt * 31 + i / 64) % 90);
  return text;
}

class Run {
 public:
  Run(const char* one, const char* other, unsigned seed) : seed_(seed), random_(seed) {
    sides_[0].directory = one;
    sides_[1].directory = other;
    for (Side& side : sides_) {
      side.fds.fill(-1);
      for (std::size_t file = 0; file < kFiles; ++file) unlink(side.path(file).c_str());
    }
    for (std::size_t h = 0; h < kHandles; ++h) {
      file_of_[h] = h % kFiles;
      both("open", [&](Side& side) {
        side.fds[h] = open(side.path(file_of_[h]).c_str(), O_RDWR | O_CREAT, 0644);
        return outcome(side.fds[h] >= 0 ? 0 : -1);
      });
    }
  }
  ~Run() {
    for (Side& side : sides_) {
      for (const int fd : side.fds) close(fd);
      if (side.view.at != nullptr) munmap(side.view.at, kPage);
      for (std::size_t file = 0; file < kFiles; ++file) unlink(side.path(file).c_str());
    }
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void step(long number) {
    const std::size_t h = pick(kHandles);
    const unsigned kind = static_cast<unsigned>(pick(100));
    if (kind < 24) {
      read_or_write_at(h);
    } else if (kind < 50) {
      read_or_write_here(h);
    } else if (kind < 62) {
      seek(h);
    } else if (kind < 70) {
      change_size(h);
    } else if (kind < 78) {
      come_and_go(h);
    } else if (kind < 84) {
      if (by_page_cache_) through_mapping();
    } else if (kind < 90) {
      by_others(h);
    } else if (kind < 94) {
      odd(h);
    } else {
      look(h);
    }
    if (number % 500 == 499) look_at_all();
  }
  bool failed() const { return failed_; }

 private:
  std::size_t pick(std::size_t below) { return random_() % below; }
  off_t place() { return static_cast<off_t>(pick(pick(3) == 0 ? 9000 : kLargest)); }
  std::size_t amount() {
    constexpr std::size_t kSome[] = {1, 100, 512, 4096, 8192, 20'000, kMost};
    const std::size_t most = kSome[pick(std::size(kSome))];
    return pick(2) == 0 ? most : 1 + pick(most);
  }

  void both(const std::string& what, const std::function<Outcome(Side&)>& act) {
    if (failed_) return;
    last_.push_back(what);
    if (last_.size() > 12) last_.pop_front();
    const Outcome one = act(sides_[0]);
    const Outcome other = act(sides_[1]);
    if (one == other) return;
    failed_ = true;
    std::size_t at = 0;
    while (at < std::min(one.bytes.size(), other.bytes.size()) && one.bytes[at] == other.bytes[at])
      ++at;
    std::printf("seed %u: %s: %ld (%s), oracle %ld (%s); bytes %zu, oracle %zu, same up to %zu\n",
                seed_, what.c_str(), one.result, std::strerror(one.error), other.result,
                std::strerror(other.error), one.bytes.size(), other.bytes.size(), at);
    for (const std::string& call : last_) std::printf("    %s\n", call.c_str());
  }

  std::string name(const char* call, std::size_t h, off_t offset = -1, std::size_t length = 0) {
    std::string text =
        std::string(call) + " handle " + std::to_string(h) + " file " + std::to_string(file_of_[h]);
    if (offset >= 0) text += " at " + std::to_string(offset);
    if (length != 0) text += " length " + std::to_string(length);
    return text;
  }

  void read_or_write_at(std::size_t h) {
    const off_t offset = place();
    const std::size_t length = amount();
    const std::size_t half = length / 3;
    const unsigned salt = static_cast<unsigned>(random_());
    switch (pick(4)) {
      case 0:
        return both(name("pread", h, offset, length), [&](Side& side) {
          std::string bytes(length, '?');
          const ssize_t n = pread(side.fds[h], bytes.data(), length, offset);
          return outcome(n, bytes);
        });
      case 1:
        return both(name("pwrite", h, offset, length), [&](Side& side) {
          const std::string bytes = text_of(length, salt);
          return outcome(pwrite(side.fds[h], bytes.data(), length, offset));
        });
      case 2:
        return both(name("preadv", h, offset, length), [&](Side& side) {
          std::string bytes(length, '?');
          const iovec parts[] = {{bytes.data(), half}, {bytes.data() + half, length - half}};
          const ssize_t n = half % 2 == 0 ? preadv2(side.fds[h], parts, 2, offset, 0)
                                          : preadv(side.fds[h], parts, 2, offset);
          return outcome(n, bytes);
        });
      default:
        return both(name("pwritev", h, offset, length), [&](Side& side) {
          std::string bytes = text_of(length, salt);
          const iovec parts[] = {{bytes.data(), half}, {bytes.data() + half, length - half}};
          return outcome(pwritev(side.fds[h], parts, 2, offset));
        });
    }
  }

  void read_or_write_here(std::size_t h) {
    const std::size_t length = amount();
    const std::size_t half = length / 2;
    const unsigned salt = static_cast<unsigned>(random_());
    switch (pick(6)) {
      case 0:
      case 1:
        return both(name("read", h, -1, length), [&](Side& side) {
          std::string bytes(length, '?');
          return outcome(read(side.fds[h], bytes.data(), length), bytes);
        });
      case 2:
      case 3:
        return both(name("write", h, -1, length), [&](Side& side) {
          const std::string bytes = text_of(length, salt);
          return outcome(write(side.fds[h], bytes.data(), length));
        });
      case 4:
        return both(name("readv", h, -1, length), [&](Side& side) {
          std::string bytes(length, '?');
          const iovec parts[] = {{bytes.data(), half}, {bytes.data() + half, length - half}};
          const bool with_flags = half % 2 == 0;
          return outcome(
              with_flags ? preadv2(side.fds[h], parts, 2, -1, 0) : readv(side.fds[h], parts, 2),
              bytes);
        });
      default:
        return both(name("writev", h, -1, length), [&](Side& side) {
          std::string bytes = text_of(length, salt);
          const iovec parts[] = {{bytes.data(), half}, {bytes.data() + half, length - half}};
          return outcome(writev(side.fds[h], parts, 2));
        });
    }
  }

  void seek(std::size_t h) {
    const off_t offset = place();
    const int whence = static_cast<int>(pick(3));
    const off_t to = whence == SEEK_SET ? offset : whence == SEEK_CUR ? offset - 9000 : -offset;
    both(name("lseek", h) + " to " + std::to_string(to) + " whence " + std::to_string(whence),
         [&](Side& side) { return outcome(lseek(side.fds[h], to, whence)); });
  }

  void change_size(std::size_t h) {
    const off_t offset = place();
    const off_t length = static_cast<off_t>(amount());
    switch (pick(6)) {
      case 0:
        return both(name("ftruncate", h, offset),
                    [&](Side& side) { return outcome(ftruncate(side.fds[h], offset)); });
      case 1:
        return both(name("truncate", h, offset), [&](Side& side) {
          return outcome(truncate(side.path(file_of_[h]).c_str(), offset));
        });
      default: {
        constexpr int kModes[] = {0, FALLOC_FL_KEEP_SIZE,
                                  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
        const int mode = kModes[pick(std::size(kModes))];
        return both(
            name("fallocate", h, offset, static_cast<std::size_t>(length)) + " mode " +
                std::to_string(mode),
            [&](Side& side) { return outcome(fallocate(side.fds[h], mode, offset, length)); });
      }
    }
  }

  // A copy of another handle, or opened anew.
  void come_and_go(std::size_t h) {
    const std::size_t from = pick(kHandles);
    const std::size_t way = pick(7);
    if (way < 3) {
      if (from == h) return;
      file_of_[h] = file_of_[from];
      return both(name(way == 0   ? "dup of"
                       : way == 1 ? "dup2 of"
                                  : "F_DUPFD of",
                       from),
                  [&](Side& side) {
                    const int old = side.fds[h];
                    if (way == 1) return outcome(dup2(side.fds[from], old) == old ? 0 : -1);
                    close(old);
                    side.fds[h] =
                        way == 0 ? dup(side.fds[from]) : fcntl(side.fds[from], F_DUPFD_CLOEXEC, 20);
                    return outcome(side.fds[h] >= 0 ? 0 : -1);
                  });
    }
    if (way == 3) {
      const bool on = pick(4) == 0;
      return both(name(on ? "F_SETFL append" : "F_SETFL", h), [&](Side& side) {
        const int flags = fcntl(side.fds[h], F_GETFL) & ~O_APPEND;
        return outcome(fcntl(side.fds[h], F_SETFL, flags | (on ? O_APPEND : 0)));
      });
    }
    constexpr int kFlags[] = {
        O_RDWR, O_RDWR, O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_RDWR | O_TRUNC};
    const int flags = kFlags[pick(std::size(kFlags))];
    file_of_[h] = pick(kFiles);
    both(name("close, open", h) + " flags " + std::to_string(flags), [&](Side& side) {
      close(side.fds[h]);
      side.fds[h] = open(side.path(file_of_[h]).c_str(), flags | O_CREAT, 0644);
      return outcome(side.fds[h] >= 0 ? 0 : -1);
    });
  }

  // One page of a file that is that long, mapped for some time.
  void through_mapping() {
    const std::size_t file = pick(kFiles);
    const bool is_there = sides_[0].view.at != nullptr;
    if (!is_there || pick(6) == 0) {
      const bool stay_away = is_there || pick(4) != 0;
      const off_t page = static_cast<off_t>(pick(20)) * kPage;
      return both("munmap, mmap file " + std::to_string(file), [&](Side& side) {
        if (side.view.at != nullptr) munmap(side.view.at, kPage);
        side.view = {};
        if (stay_away) return Outcome{};
        const int fd = open(side.path(file).c_str(), O_RDWR);
        void* const at = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page);
        close(fd);
        if (at != MAP_FAILED) side.view = {static_cast<char*>(at), file, page};
        return outcome(at != MAP_FAILED ? 0 : -1);
      });
    }
    const View& view = sides_[0].view;
    struct stat status = {};
    stat(sides_[0].path(view.file).c_str(), &status);
    if (status.st_size < view.page + kPage) return;  // SIGBUS
    const std::size_t at = pick(kPage);
    const unsigned salt = static_cast<unsigned>(random_());
    const bool store = pick(2) == 0;
    both(std::string(store ? "store" : "load") + " in the mapping of file " +
             std::to_string(view.file),
         [&](Side& side) {
           if (store) side.view.at[at] = static_cast<char>('a' + salt % 26);
           return Outcome{0, 0, std::string(side.view.at, kPage)};
         });
  }

  // What this library does not see, and children.
  void by_others(std::size_t h) {
    const std::size_t length = 1 + pick(5000);
    switch (by_page_cache_ ? pick(5) : 4) {
      case 0:
        return both(name("read by a raw system call", h, -1, length), [&](Side& side) {
          std::string bytes(length, '?');
          const long n = syscall(SYS_read, side.fds[h], bytes.data(), length);
          return outcome(n, bytes);
        });
      case 1:
        return both(name("write by a raw system call", h, -1, length), [&](Side& side) {
          const std::string bytes = text_of(length, 5);
          return outcome(syscall(SYS_write, side.fds[h], bytes.data(), length));
        });
      case 2:
        return both(name("sendfile", h, -1, length), [&](Side& side) {
          int ends[2];
          if (pipe(ends) != 0) return outcome(-1);
          const long n = sendfile(ends[1], side.fds[h], nullptr, length);
          std::string bytes(length, '?');
          const int error = errno;
          if (n > 0 && read(ends[0], bytes.data(), length) != n) bytes = "short";
          close(ends[0]);
          close(ends[1]);
          errno = error;
          return outcome(n, bytes);
        });
      default:
        return both(name("read and write by a child", h, -1, length), [&](Side& side) {
          const pid_t child = fork();
          if (child == 0) {
            std::string bytes = text_of(length, 9);
            long n = write(side.fds[h], bytes.data(), length / 2);
            n += read(side.fds[h], bytes.data(), length);
            n += pread(side.fds[h], bytes.data(), length, 100);
            _exit(static_cast<int>(n & 127));
          }
          int status = 0;
          waitpid(child, &status, 0);
          return outcome(status);
        });
    }
  }

  void odd(std::size_t h) {
    switch (pick(6)) {
      case 0:
        return both(name("pwrite from nowhere", h),
                    [&](Side& side) { return outcome(pwrite(side.fds[h], nowhere, 10, 0)); });
      case 1:
        return both(name("pread before the beginning", h), [&](Side& side) {
          char byte;
          return outcome(pread(side.fds[h], &byte, 1, -5));
        });
      case 2:
        return both(name("nothing at all", h), [&](Side& side) {
          char byte;
          return outcome(read(side.fds[h], &byte, 0) + pwrite(side.fds[h], &byte, 0, 77));
        });
      case 3:
        return both(name("a wrong number of pieces", h), [&](Side& side) {
          return outcome(readv(side.fds[h], static_cast<const iovec*>(nowhere), wrong_count));
        });
      case 4:
        return both("of no file", [&](Side&) {
          char byte;
          return outcome(read(900, &byte, 1) + close(901) + dup2(902, 903));
        });
      default:
        return both(name("fsync", h), [&](Side& side) { return outcome(fsync(side.fds[h])); });
    }
  }

  // Where everybody is, and how long the file.
  void look(std::size_t h) {
    both(name("position and size", h), [&](Side& side) {
      struct stat status = {};
      fstat(side.fds[h], &status);
      return Outcome{static_cast<long>(status.st_size), 0,
                     std::to_string(syscall(SYS_lseek, side.fds[h], 0, SEEK_CUR))};
    });
  }

  // By descriptors of another kind, as a program without daxfs-run sees them.
  void look_at_all() {
    for (std::size_t file = 0; file < kFiles; ++file) {
      both("all of file " + std::to_string(file), [&](Side& side) {
        const long fd = syscall(SYS_openat, AT_FDCWD, side.path(file).c_str(), O_RDONLY);
        std::string bytes(2 * kLargest, '?');
        const long n = syscall(SYS_pread64, fd, bytes.data(), bytes.size(), 0);
        syscall(SYS_close, fd);
        return outcome(n, bytes.substr(0, static_cast<std::size_t>(std::max(n, 0L))));
      });
    }
  }

  const unsigned seed_;
  std::mt19937 random_;
  // Whether the kernel's page cache is used now and then: copies have to wait then.
  const bool by_page_cache_ = seed_ % 2 == 0;
  bool failed_ = false;
  std::array<Side, 2> sides_;
  std::array<std::size_t, kHandles> file_of_{};
  std::deque<std::string> last_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: run_ops DIRECTORY ORACLE CALLS SEED\n");
    return 2;
  }
  const long calls = std::atol(argv[3]);
  Run run(argv[1], argv[2], static_cast<unsigned>(std::atol(argv[4])));
  long done = 0;
  for (; done < calls && !run.failed(); ++done) run.step(done);
  std::printf("%ld calls, seed %s: %s\n", done, argv[4], run.failed() ? "DIFFERENT" : "the same");
  return run.failed() ? 1 : 0;
}
