#include "base/require.h"

#include <syslog.h>

#include <cstdio>
#include <cstdlib>

namespace daxfs {

void bug(const std::string& what, const char* condition, std::source_location place) {
  const std::string text = fmt::format(
      "daxfs: a bug in {}:{}: {} (required: {}). The process ends here, before it does damage; "
      "what "
      "was acknowledged is kept. Please report this line.\n",
      place.file_name(), place.line(), what, condition);
  std::fputs(text.c_str(), stderr);
  // A daemon's stderr leads nowhere.
  syslog(LOG_DAEMON | LOG_CRIT, "%s", text.c_str());
  std::abort();
}

}  // namespace daxfs
