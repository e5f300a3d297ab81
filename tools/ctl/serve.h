// daxfsctl serve: the live view of a mount for a browser.
#pragma once

#include <string>

#include "base/result.h"

namespace daxfs::ctl {

struct ServeOptions {
  std::string address = "127.0.0.1";
  int port = 0;  // 0: any that is free
  bool token = true;
};

// Prints the address to open, then answers until it is ended by a signal or the mount ends. What a
// browser sees and does is what the user who has started it may. Without the token nobody gets an
// answer.
Outcome<void> serve(const std::string& path, const ServeOptions& options);

}  // namespace daxfs::ctl
