// The control directory, `.daxfs/`, through real files and commands.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "blockmap/medium/pool.h"
#include "blockmap/volume/volume.h"
#include "src/filesystem.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr uid_t kSomebody = 4242;

struct Control : Mount {
  std::string control(const std::string& name) const { return path(".daxfs/" + name); }
  std::string cat(const std::string& name, uid_t user = 0) const {
    const Finished shown = run({"/bin/cat", control(name)}, user);
    INFO(shown.err);
    CHECK(shown.code == 0);
    return shown.out;
  }
  Json json(const std::string& name, uid_t user = 0) const { return Json::parse(cat(name, user)); }
  // What a write(2) of the policy fails with, 0 if it does not.
  int write_policy(const std::string& text) const {
    const daxfs::UniqueFd fd(open(control("policy").c_str(), O_WRONLY | O_TRUNC | O_CREAT, 0644));
    if (!fd) return errno;
    return error_of(write(fd.get(), text.data(), text.size()));
  }
  // A pin of this process.
  std::uint64_t pin(int fd) const {
    std::uint64_t id = 0;
    REQUIRE(daxfs_pin(fd, 0, 4 * kBlock, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &id) == 0);
    return id;
  }
};

// Read in pieces of so many bytes. For threads, too: Catch is for one alone.
std::string read_slowly(const std::string& path, std::size_t piece) {
  const daxfs::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::string buffer(piece, '\0');
  for (;;) {
    const ssize_t got = read(fd.get(), buffer.data(), piece);
    if (got < 0) return "read: " + std::string(std::strerror(errno));
    if (got == 0) return text;
    text.append(buffer, 0, static_cast<std::size_t>(got));
  }
}

}  // namespace

TEST_CASE_METHOD(Control, "the control directory is found by name and in no listing") {
  const Finished root = run({"/bin/ls", "-A", path()});
  CHECK(root.out.empty());
  const Finished found = run({"/usr/bin/find", path(), "-mindepth", "1"});
  CHECK(found.out.empty());
  const Finished inside = run({"/bin/ls", "-A", path(".daxfs")});
  CHECK(inside.out ==
        "attached\nevents\nleases\nlimbo\nmap\nmetrics\npins\npolicy\nrelease\nscrub\nstatus\nwaiti"
        "ng\n");
  const Finished long_list = run({"/bin/ls", "-la", path(".daxfs")});
  CHECK(long_list.code == 0);
  CHECK(long_list.err.empty());
  CHECK(S_ISDIR(status_of(path(".daxfs")).st_mode));
  CHECK(status_of(path(".daxfs/..")).st_ino == status_of(path()).st_ino);
  CHECK(status_of(control("status")).st_size == 0);
  CHECK(access(control("nothing").c_str(), F_OK) == -1);
  CHECK(errno == ENOENT);
}

TEST_CASE_METHOD(Control, "names in and of the control directory stay as they are") {
  const std::string directory = path(".daxfs");
  write_file(path("f"), "x");
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  CHECK(error_of(mkdir(directory.c_str(), 0755)) == EEXIST);
  CHECK(error_of(rmdir(directory.c_str())) == EPERM);
  CHECK(error_of(unlink(control("status").c_str())) == EPERM);
  CHECK(error_of(rename(directory.c_str(), path("other").c_str())) == EPERM);
  CHECK(error_of(rename(path("d").c_str(), directory.c_str())) == EPERM);
  CHECK(error_of(rename(path("f").c_str(), control("status").c_str())) == EPERM);
  CHECK(error_of(rename(control("status").c_str(), path("status").c_str())) == EPERM);
  CHECK(error_of(link(control("status").c_str(), path("status").c_str())) == EPERM);
  CHECK(error_of(link(path("f").c_str(), control("f").c_str())) == EPERM);
  CHECK(error_of(symlink("f", control("l").c_str())) == EPERM);
  CHECK(error_of(mkdir(control("d").c_str(), 0755)) == EPERM);
  CHECK(error_of(open(control("new").c_str(), O_CREAT | O_WRONLY, 0644)) == EPERM);
  CHECK(error_of(chmod(control("status").c_str(), 0666)) == EPERM);
  CHECK(error_of(chown(directory.c_str(), 1, 1)) == EPERM);
  CHECK(error_of(truncate(control("status").c_str(), 0)) == EPERM);
  CHECK(error_of(truncate(control("policy").c_str(), 100)) == EPERM);
  // Elsewhere it is a name like any other.
  REQUIRE(mkdir(path("d/.daxfs").c_str(), 0755) == 0);
  CHECK(rmdir(path("d/.daxfs").c_str()) == 0);
}

TEST_CASE_METHOD(Control, "a file of that name in an old pool is covered, and comes to no harm") {
  const auto with_pool = [&](const auto& act) {
    unmount();
    {
      auto pool_file = daxfs::Pool::open(pool(), {.lock_timeout_seconds = 30});
      REQUIRE(pool_file);
      auto volume = daxfs::Volume::open((*pool_file)->medium(), pool(), false, 1);
      REQUIRE(volume);
      daxfs::Filesystem filesystem({.volume = **volume, .pool = pool_file->get()});
      act(filesystem);
      filesystem.unmount();
    }
    mount();
  };
  with_pool([](daxfs::Filesystem& filesystem) {
    REQUIRE(filesystem.names().make_node(daxfs::kRootInode, ".daxfs", S_IFREG | 0644, 0, {}));
  });
  CHECK(run({"/bin/ls", "-A", path()}).out.empty());
  CHECK(run({"/bin/ls", "-Al", path()}).out == "total 0\n");
  CHECK(S_ISDIR(status_of(path(".daxfs")).st_mode));
  CHECK(json("status")["pool"] == pool());
  with_pool([](daxfs::Filesystem& filesystem) {
    CHECK(filesystem.names().unlink(daxfs::kRootInode, ".daxfs"));
  });
}

TEST_CASE("status says what is not as it should be, and its way out is one") {
  need_mounts();
  const Mount mount({.options = "unsafe_demo"});
  CHECK(mount.status()["degraded"].empty());
  const std::vector<std::string> words{tool("daxfsctl"), "status", mount.path()};
  CHECK(contains(run(words).out, "\nstate           in order\n"));
  REQUIRE(run({tool("daxfsctl"), "policy", mount.path(), "set", "ignore"}).code == 0);
  const Json degraded = mount.status()["degraded"];
  REQUIRE(degraded.size() == 1);
  CHECK(degraded[0]["what"] == "ignored_pins");
  const std::string way_out = degraded[0]["way_out"];
  CHECK(contains(run(words).out, "\n  way out       " + way_out + "\n"));
  const std::string bin = tool("daxfsctl").substr(0, tool("daxfsctl").rfind('/'));
  CHECK(run({"/bin/sh", "-c", "PATH=" + bin + ":$PATH " + way_out}).code == 0);
  CHECK(mount.status()["degraded"].empty());
}

TEST_CASE_METHOD(Control, "files of the control directory say what daxfsctl says") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR | O_CREAT);
  CHECK(cat("pins") == "[]\n");
  const std::uint64_t id = pin(fd.get());
  std::uint64_t lease = 0;
  REQUIRE(daxfs_lease(fd.get(), 0, kBlock, 0, &lease) == 0);
  const daxfs::UniqueFd gone = open_file(path("g"), O_RDWR | O_CREAT);
  pin(gone.get());
  CHECK(write_policy("defer\n") == 0);
  REQUIRE(ftruncate(gone.get(), 0) == 0);

  CHECK(json("status") == status());
  CHECK(json("pins") == ctl("pins"));
  CHECK(json("leases") == ctl("leases"));
  CHECK(json("limbo") == ctl("limbo"));
  CHECK(json("pins").size() == 2);
  CHECK(json("pins")[0]["id"] == id);
  CHECK(json("pins")[0]["survivor"] == false);
  CHECK(json("leases")[0]["id"] == lease);
  CHECK(json("limbo")[0]["length"] == 4 * kBlock);
  // Tools, too, take any path of the mount.
  CHECK(ctl("status", ".daxfs") == status());
  CHECK(ctl("status", ".daxfs/pins") == status());
  const std::string leases = run({tool("daxfsctl"), "leases", path()}).out;
  CHECK(leases.find("shared") != std::string::npos);

  // All of them agree about space.
  struct statvfs space {};
  REQUIRE(statvfs(path().c_str(), &space) == 0);
  const Json now = json("status");
  CHECK(now["free"] == space.f_bfree * space.f_frsize);
  CHECK(now["total"] == space.f_blocks * space.f_frsize);
  const std::string metrics = cat("metrics");
  const auto has = [&](const std::string& line) {
    INFO(line << " in\n" << metrics);
    CHECK(metrics.find("\n" + line + "\n") != std::string::npos);
  };
  has("daxfs_free_bytes " + now["free"].dump());
  has("daxfs_limbo_bytes " + std::to_string(4 * kBlock));
  has("daxfs_pins{kind=\"long\"} 2");
  has("daxfs_leases 1");
  has("daxfs_policy_info{pin_policy=\"defer\",on_timeout=\"refuse\",longterm=\"allow\"} 1");
  has("daxfs_gate_events_total{event=\"deferred\"} 1");
  has("daxfs_gate_events_total{event=\"pin\"} 2");
}

TEST_CASE_METHOD(Control, "who waits is shown, since when, until when, and for whom") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR | O_CREAT);
  const std::uint64_t id = pin(fd.get());
  std::uint64_t lease = 0;
  REQUIRE(daxfs_lease(fd.get(), 0, kBlock, 0, &lease) == 0);
  CHECK(write_policy("pin_policy=wait wait_timeout=60s") == 0);
  CHECK(cat("waiting") == "[]\n");
  CHECK(run({tool("daxfsctl"), "waiting", path()}).out == "nobody waits\n");

  const std::string file = path("f");
  Attempt punch([&] {
    const int own = open(file.c_str(), O_RDWR);
    return error_of(fallocate(own, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kBlock, 2 * kBlock));
  });
  REQUIRE(waiting_becomes(*this, 1));
  const Json now = json("waiting");
  REQUIRE(now.size() == 1);
  CHECK(now[0]["request"] == "punch");
  CHECK(now[0]["path"] == "/f");
  CHECK(now[0]["offset"] == kBlock);
  CHECK(now[0]["length"] == 2 * kBlock);
  CHECK(now[0]["policy"] == "wait");
  CHECK(now[0]["pid"] == punch.pid());
  CHECK(now[0]["uid"] == 0);
  const double waits = now[0]["deadline"].get<double>() - now[0]["since"].get<double>();
  CHECK(waits > 59.9);
  CHECK(waits < 60.1);
  // daxfsctl adds for whom: the pin is in the way, the lease lies elsewhere.
  const Json shown = ctl("waiting");
  REQUIRE(shown.size() == 1);
  CHECK(shown[0]["id"] == now[0]["id"]);
  REQUIRE(shown[0]["waits_for"].size() == 1);
  CHECK(shown[0]["waits_for"][0]["pid"] == getpid());
  CHECK(shown[0]["waits_for"][0]["pins"] == 1);
  CHECK(shown[0]["waits_for"][0]["leases"] == 0);
  CHECK(json("waiting", kSomebody).empty());

  // A pin that comes later queues behind the punch.
  Attempt later([&] {
    const int own = open(file.c_str(), O_RDWR);
    std::uint64_t mine = 0;
    return error_of(daxfs_pin(own, 2 * kBlock, kBlock, 0, &mine));
  });
  REQUIRE(waiting_becomes(*this, 2));
  const Json both = ctl("waiting");
  CHECK(both[1]["request"] == "pin");
  CHECK(both[1]["behind"] == Json::array({now[0]["id"]}));
  CHECK(both[1]["waits_for"].empty());

  REQUIRE(daxfs_unpin(fd.get(), id) == 0);
  CHECK(punch.finish() == 0);
  later.finish();
  CHECK(cat("waiting") == "[]\n");
}

TEST_CASE_METHOD(Control, "top shows who holds and who waits, as text where there is no terminal") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR | O_CREAT);
  const std::uint64_t id = pin(fd.get());
  pin(fd.get());
  CHECK(write_policy("pin_policy=wait wait_timeout=60s") == 0);
  const std::string file = path("f");
  Attempt punch([&] { return error_of(truncate(file.c_str(), 0)); });
  REQUIRE(waiting_becomes(*this, 1));
  const Finished shown = run({tool("daxfsctl"), "top", "--count", "1", path()});
  INFO(shown.out << shown.err);
  CHECK(shown.code == 0);
  CHECK(shown.err.empty());
  const auto has = [&](const std::string& text) {
    return shown.out.find(text) != std::string::npos;
  };
  CHECK(has("policy   wait, longterm=allow"));
  CHECK(has("2 long, 0 short, 32 KiB; 0 leases; 1 requests wait"));
  CHECK(has("truncate"));
  CHECK(has("pid " + std::to_string(getpid()) + " (tests_mount), 2 pins"));
  CHECK(has("\n" + fmt::format("{:>8} tests_mount            2", getpid())));
  CHECK(shown.out.find('\033') == std::string::npos);
  CHECK(run({tool("daxfsctl"), "top", "--count", "1", "--sort", "size", path()}).code == 2);
  CHECK(run({tool("daxfsctl"), "top", "--interval", "0", path()}).code == 2);
  CHECK(run({tool("daxfsctl"), "top", "/"}).code == 1);
  REQUIRE(daxfs_unpin(fd.get(), id) == 0);
}

TEST_CASE_METHOD(Control, "what daxfsctl shows of a name does nothing to a terminal") {
  const std::string name =
      "a\u009b2Jb\u202ec\x9b"
      "d\033[2Je\u00e4\u20ac";
  const daxfs::UniqueFd fd = open_file(path(name), O_RDWR | O_CREAT);
  pin(fd.get());
  const Finished shown = run({tool("daxfsctl"), "pins", path()});
  INFO(shown.out << shown.err);
  CHECK(shown.code == 0);
  // JSON has U+FFFD for a byte that is no UTF-8.
  CHECK(contains(shown.out, "a?2Jb?c\ufffdd?[2Je\u00e4\u20ac"));
}

TEST_CASE_METHOD(Control, "a long list reads alike in pieces, at once, and from any offset") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR | O_CREAT);
  for (int i = 0; i < 2000; ++i) pin(fd.get());
  const std::string whole = cat("pins");
  const Json pins = Json::parse(whole);
  REQUIRE(pins.size() == 2000);
  CHECK(read_slowly(control("pins"), 777) == whole);
  CHECK(read_slowly(control("pins"), 1 << 20) == whole);
  CHECK(run({"/usr/bin/head", "-c", "1000", control("pins")}).out == whole.substr(0, 1000));
  CHECK(run({"/usr/bin/tail", "-c", "1000", control("pins")}).out ==
        whole.substr(whole.size() - 1000));
  const daxfs::UniqueFd file = open_file(control("pins"), O_RDONLY);
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{100'000}, std::size_t{5}, whole.size() - 3, whole.size(),
        whole.size() + 1'000'000, std::size_t{40'000}}) {
    INFO(at);
    CHECK(read_at(file.get(), at, 5000) ==
          (at < whole.size() ? whole.substr(at, 5000) : std::string()));
  }
  std::string other;
  std::thread beside([&] { other = read_slowly(control("pins"), 1000); });
  const std::string mine = read_slowly(control("pins"), 999);
  beside.join();
  CHECK(mine == whole);
  CHECK(other == whole);
}

TEST_CASE_METHOD(Control, "everybody sees what is everybody's, and his own pins and leases") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR | O_CREAT, 0666);
  REQUIRE(fchmod(fd.get(), 0666) == 0);
  pin(fd.get());
  for (const std::string name : {"status", "limbo", "metrics", "policy"}) {
    INFO(name);
    CHECK(cat(name, kSomebody) == cat(name));
  }
  CHECK(json("pins", kSomebody).empty());
  const std::string file = path("f");
  const ReadyChild holder(
      [&] {
        const int own = open(file.c_str(), O_RDWR);
        std::uint64_t id = 0;
        if (daxfs_pin(own, 0, kBlock, 0, &id) != 0) return errno;
        return daxfs_lease(own, 0, kBlock, 0, &id) != 0 ? errno : 0;
      },
      kSomebody);
  REQUIRE(holder.result() == 0);
  CHECK(json("pins", kSomebody).size() == 1);
  CHECK(json("leases", kSomebody).size() == 1);
  CHECK(json("pins", kSomebody + 1).empty());
  CHECK(json("leases", kSomebody + 1).empty());
  CHECK(json("pins").size() == 2);

  CHECK(in_child([&] { return error_of(open(control("events").c_str(), O_RDONLY)); }, kSomebody) ==
        EACCES);
  CHECK(in_child([&] { return write_policy("defer"); }, kSomebody) == EPERM);
  // Who was given the descriptor has not got the right with it.
  const daxfs::UniqueFd policy = open_file(control("policy"), O_WRONLY);
  CHECK(in_child([&] { return error_of(write(policy.get(), "defer", 5)); }, kSomebody) == EPERM);
  const Finished set = run_as(kSomebody, {"daxfsctl", "policy", path(), "set", "defer"});
  CHECK(set.code == 1);
  CHECK(set.err.find("only root and the user who mounted") != std::string::npos);
  const Finished events = run_as(kSomebody, {"daxfsctl", "events", path()});
  CHECK(events.code == 1);
  CHECK(events.err.find("only root and the user who mounted") != std::string::npos);
  CHECK(status()["policy"]["pin_policy"] == "refuse");
}

TEST_CASE_METHOD(Control, "the policy is switched by writing it, all of it or nothing") {
  const std::string saved = cat("policy");
  CHECK(saved.find("pin_policy=refuse\n") == 0);
  CHECK(write_policy("pin_policy=wait wait_timeout=5s\n") == 0);
  CHECK(status()["policy"]["wait_timeout"] == 5.0);
  const std::string waits = cat("policy");
  for (const std::string wrong :
       {"nonsense", "defer wait_timeout=soon", "longterm=forbid,pin_limit=-1", "\n", "ignore"}) {
    INFO(wrong);
    CHECK(write_policy(wrong) == EINVAL);
    CHECK(cat("policy") == waits);
  }
  CHECK(write_policy(saved) == 0);
  CHECK(cat("policy") == saved);
  const Finished shell =
      run({"/bin/sh", "-c",
           "echo defer > '" + control("policy") + "' && cat '" + control("policy") + "'"});
  CHECK(shell.out.find("pin_policy=defer\n") == 0);
}

TEST_CASE_METHOD(Control, "who has opened the policy counts as well as who writes it") {
  const std::string text = "defer";
  const auto write_it = [&](uid_t opener, uid_t writer) {
    return in_child([&] {
      if (seteuid(opener) != 0) return 255;
      const daxfs::UniqueFd fd(open(control("policy").c_str(), O_WRONLY));
      if (!fd || seteuid(0) != 0 || seteuid(writer) != 0) return 255;
      return error_of(write(fd.get(), text.data(), text.size()));
    });
  };
  CHECK(write_it(kSomebody, 0) == EPERM);  // as a set-user-id program's standard error
  CHECK(write_it(0, kSomebody) == EPERM);
  CHECK(write_it(kSomebody, kSomebody) == EPERM);
  CHECK(status()["policy"]["pin_policy"] == "refuse");
  CHECK(write_it(0, 0) == 0);
  CHECK(status()["policy"]["pin_policy"] == "defer");
}

TEST_CASE_METHOD(Control, "daxfsctl switches policies") {
  const Finished set = run(
      {tool("daxfsctl"), "policy", path(), "set", "pin_policy=wait", "wait_timeout=5s", "--json"});
  INFO(set.err);
  REQUIRE(set.code == 0);
  CHECK(Json::parse(set.out)["pin_policy"] == "wait");
  CHECK(Json::parse(set.out)["wait_timeout"] == 5.0);
  const Finished wrong = run({tool("daxfsctl"), "policy", path(), "set", "wiat"});
  CHECK(wrong.code == 1);
  CHECK(wrong.err.find("wiat") != std::string::npos);
  CHECK(run({tool("daxfsctl"), "policy", path(), "set"}).code == 2);
  CHECK(run({tool("daxfsctl"), "policy", path(), "get", "defer"}).code == 2);
  CHECK(status()["policy"]["pin_policy"] == "wait");
  CHECK(run({tool("daxfsctl"), "policy", path(), "set", "defer"}).code == 0);
  CHECK(status()["policy"]["pin_policy"] == "defer");
}
