#include "tools/ctl/serve.h"

#include <fmt/format.h>
#include <httplib.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "tools/ctl/ending.h"
#include "tools/ctl/live_report.h"
#include "tools/ctl/page_files.h"
#include "tools/ctl/print.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {
namespace {

constexpr std::size_t kThreads = 48;
constexpr int kMostStreams = 32;     // each keeps a thread
constexpr int kPatienceSeconds = 3;  // with who does not finish a request
constexpr std::size_t kMostSetting = 1000;
constexpr int kKeepAliveSeconds = 10;

std::string new_token() {
  std::array<unsigned char, 16> bytes{};
  std::string token;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

// Takes as long whatever is wrong.
bool same(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned differing = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    differing |=
        static_cast<unsigned>(static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]));
  }
  return differing == 0;
}

// Whether a browser has asked for one of this machine's own names. Another site's name can be made
// to lead here, and its pages then count as ours to the browser.
bool is_own_name(std::string_view host) {
  for (const std::string_view name : {"127.0.0.1", "localhost", "[::1]"}) {
    if (!host.starts_with(name)) continue;
    host.remove_prefix(name.size());
    return host.empty() || (host.starts_with(':') &&
                            host.find_first_not_of("0123456789", 1) == std::string_view::npos);
  }
  return false;
}

// Without a token: not by a page of another site. Browsers name it in Origin with every POST.
bool is_own_page(const httplib::Request& request) {
  const std::string host = request.get_header_value("Host");
  return is_own_name(host) &&
         (!request.has_header("Origin") || request.get_header_value("Origin") == "http://" + host);
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1" || address == "localhost";
}

// Not what the library sets by itself, SO_REUSEPORT: two servers would share one port.
void reuse_address_only(int socket) {
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

void answer_error(httplib::Response& response, int status, const std::string& text) {
  response.status = status;
  response.set_content(Json{{"error", text}}.dump(-1, ' ', false, Json::error_handler_t::replace),
                       "application/json");
}

int status_of(const Problem& problem) {
  switch (problem.code) {
    case EPERM:
    case EACCES:
      return 403;
    case EINVAL:
      return 400;
    default:
      return 502;
  }
}

// Lines of the mount's events, as server-sent events. One for each browser.
class EventStream {
 public:
  EventStream(UniqueFd events, const std::atomic<bool>& over, std::atomic<int>& streams)
      : events_(std::move(events)), over_(over), streams_(streams) {}
  ~EventStream() { --streams_; }
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  // False: the stream has ended.
  bool send(httplib::DataSink& sink) {
    pollfd wait{events_.get(), POLLIN, 0};
    // Short, so that the server can end.
    for (int waited = 0; poll(&wait, 1, 500) == 0; ++waited) {
      if (over_) return false;
      if (waited == 2 * kKeepAliveSeconds) return write(sink, ": still here\n\n");
    }
    std::array<char, 65536> buffer;
    const ssize_t got = read(events_.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (got <= 0) return false;
    pending_.append(buffer.data(), static_cast<std::size_t>(got));
    std::string out;
    std::size_t begin = 0;
    for (std::size_t end; (end = pending_.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      out += "data: " + pending_.substr(begin, end - begin) + "\n\n";
    }
    pending_.erase(0, begin);
    return write(sink, out);
  }

 private:
  static bool write(httplib::DataSink& sink, const std::string& text) {
    return sink.write(text.data(), text.size());
  }
  const UniqueFd events_;
  const std::atomic<bool>& over_;
  std::atomic<int>& streams_;  // has counted this one
  std::string pending_;        // a line whose end has not come yet
};

class Server {
 public:
  Server(std::string path, std::string token) : path_(std::move(path)), token_(std::move(token)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server_.set_payload_max_length(kMostSetting);
    server_.set_socket_options(reuse_address_only);
    server_.set_read_timeout(kPatienceSeconds);
    server_.set_keep_alive_timeout(kPatienceSeconds);
    // Before a body is waited for: strangers keep no thread with one.
    server_.set_pre_routing_handler([this](const auto& request, auto& response) {
      const bool open = request.path != "/events" && !request.path.starts_with("/api/");
      return open || admits(request, response) ? httplib::Server::HandlerResponse::Unhandled
                                               : httplib::Server::HandlerResponse::Handled;
    });
    server_.set_default_headers({{"Content-Security-Policy", "default-src 'self'"},
                                 {"X-Content-Type-Options", "nosniff"},
                                 {"Referrer-Policy", "no-referrer"},
                                 {"Cache-Control", "no-store"}});
    for (const PageFile& file : page_files()) {
      const std::string place = file.name == "index.html" ? "/" : fmt::format("/{}", file.name);
      server_.Get(place, [file](const httplib::Request&, httplib::Response& response) {
        response.set_content(file.text.data(), file.text.size(), std::string(file.type).c_str());
      });
    }
    server_.Get("/api/snapshot",
                [this](const auto& request, auto& response) { snapshot(request, response); });
    server_.Get("/events", [this](const auto&, auto& response) { events(response); });
    server_.Post("/api/policy",
                 [this](const auto& request, auto& response) { policy(request, response); });
  }

  // The port; -1: it cannot be had.
  int bind(const ServeOptions& options) {
    if (options.port == 0) return server_.bind_to_any_port(options.address.c_str());
    return server_.bind_to_port(options.address.c_str(), options.port) ? options.port : -1;
  }
  void run() { server_.listen_after_bind(); }
  void end() {
    over_ = true;
    server_.stop();
  }

 private:
  // A page of somebody else's site may send requests here, but it has no token, and no name of
  // ours.
  bool admits(const httplib::Request& request, httplib::Response& response) const {
    const std::string header = request.get_header_value("Authorization");
    const std::string given =
        header.starts_with("Bearer ") ? header.substr(7) : request.get_param_value("token");
    if (token_.empty()) {
      if (is_own_page(request)) return true;
    } else if (same(given, token_)) {
      return true;
    }
    answer_error(response, 401, "open the address that daxfsctl serve has printed");
    return false;
  }

  // Nothing: it is not there, and that was answered.
  std::optional<Mount> find_mount(httplib::Response& response) const {
    auto mount = Mount::at(path_);
    if (mount) return std::move(*mount);
    answer_error(response, status_of(mount.error()), mount.error().text);
    return std::nullopt;
  }

  void snapshot(const httplib::Request& request, httplib::Response& response) const {
    std::size_t cells = 1024;
    const std::string asked = request.get_param_value("cells");
    std::from_chars(asked.data(), asked.data() + asked.size(), cells);
    const auto mount = find_mount(response);
    if (!mount) return;
    const auto report = live_report(*mount, std::clamp<std::size_t>(cells, 1, 16384));
    if (!report) return answer_error(response, status_of(report.error()), report.error().text);
    response.set_content(*report, "application/json");
  }

  void events(httplib::Response& response) {
    const auto mount = find_mount(response);
    if (!mount) return;
    auto opened = mount->open_control("events", O_RDONLY | O_NONBLOCK);
    if (!opened) return answer_error(response, status_of(opened.error()), opened.error().text);
    if (++streams_ > kMostStreams) {
      --streams_;
      return answer_error(response, 503, "too many pages are open: close some of them");
    }
    auto stream = std::make_shared<EventStream>(std::move(*opened), over_, streams_);
    response.set_chunked_content_provider("text/event-stream",
                                          [stream](std::size_t, httplib::DataSink& sink) {
                                            if (stream->send(sink)) return true;
                                            sink.done();
                                            return false;
                                          });
  }

  void policy(const httplib::Request& request, httplib::Response& response) const {
    const auto mount = find_mount(response);
    if (!mount) return;
    const auto set = mount->set_policy(request.body);
    if (!set) return answer_error(response, status_of(set.error()), set.error().text);
    response.set_content("{}", "application/json");
  }

  // The mount is looked for anew with each request: a server keeps no mount busy, and finds the
  // next one at the same place.
  const std::string path_;
  const std::string token_;
  std::atomic<bool> over_ = false;
  std::atomic<int> streams_ = 0;
  httplib::Server server_;
};

}  // namespace

Outcome<void> serve(const std::string& path, const ServeOptions& options) {
  if (!options.token && !is_loopback(options.address)) {
    return problem(EINVAL,
                   fmt::format("{}: without a token only this machine's own users may come: "
                               "listen on 127.0.0.1 or [::1], or leave --no-token out",
                               options.address));
  }
  // Says at once if it is no mount of ours.
  if (const auto mount = Mount::at(path); !mount) {
    return std::unexpected(mount.error());
  } else if (const auto report = live_report(*mount, 1); !report) {
    return std::unexpected(report.error());
  }
  const UniqueFd signals = catch_signals();
  const std::string token = options.token ? new_token() : "";
  if (!signals || (options.token && token.empty())) {
    return problem(errno, fmt::format("signals, random numbers: {}", std::strerror(errno)));
  }
  Server server(path, token);
  const int port = server.bind(options);
  if (port < 0) {
    return problem(EADDRINUSE,
                   fmt::format("{}:{}: cannot listen there: is the address this machine's, and the "
                               "port free? --listen takes another",
                               options.address, options.port));
  }
  const bool six = options.address.find(':') != std::string::npos;
  print(fmt::format("http://{}:{}/{}\n", six ? "[" + options.address + "]" : options.address, port,
                    token.empty() ? "" : "#token=" + token));
  if (std::fflush(stdout) != 0) {
    return problem(
        errno, fmt::format("standard output: {}: the address, with its token, is said nowhere else",
                           std::strerror(errno)));
  }
  std::thread answering([&] { server.run(); });
  signalfd_siginfo signal;
  while (read(signals.get(), &signal, sizeof signal) < 0 && errno == EINTR) {
  }
  server.end();
  answering.join();
  return {};
}

}  // namespace daxfs::ctl
