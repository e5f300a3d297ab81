#include "src/policies.h"

#include <spdlog/spdlog.h>

#include "blockmap/xattr.h"
#include "src/policy_settings.h"

namespace daxfs {
namespace {

const std::string kPolicyXattr = "user.daxfs.pin_policy";

}  // namespace

Outcome<void> Policies::set(std::string_view text, const Caller& caller) {
  if (!callers_.is_trusted(caller)) {
    return problem(EPERM, "only root and the user who mounted may switch policies");
  }
  const MutexLock guard(mutex_);
  const auto changed = change_policy(gate_.options(), text, mount_.options.unsafe_demo,
                                     bytes(mount_.volume.data_area().count));
  if (!changed) return std::unexpected(changed.error());
  if (changed->pin_policy == PinPolicy::ignore) {
    spdlog::warn("{}: switched to pin_policy=ignore: holders WILL see and cause corruption",
                 mount_.mountpoint);
  }
  gate_.set_options(*changed, callers_.requester(caller).process);
  return {};
}

std::optional<PinPolicy> Policies::of(Inode& inode) const {
  if (!inode.pin_policy) {
    inode.pin_policy.emplace();
    if (inode.record.xattr_block != 0) {
      const auto attributes = load_xattrs(mount_.volume.medium(), inode.number, inode.record,
                                          mount_.volume.data_area());
      // Attributes that cannot be read are reported to their readers; here the mount's policy is
      // the answer.
      if (attributes) {
        const auto found = attributes->find(kPolicyXattr);
        if (found != attributes->end()) *inode.pin_policy = parse_pin_policy(found->second);
      }
    }
    // It may have been set under a mount that allowed it.
    if (*inode.pin_policy == PinPolicy::ignore && !mount_.options.unsafe_demo)
      inode.pin_policy->reset();
  }
  return *inode.pin_policy;
}

bool Policies::is_policy(std::string_view attribute) { return attribute == kPolicyXattr; }

Status Policies::check(const Inode& inode, std::optional<std::string_view> value,
                       const Caller& caller) const {
  if (!callers_.is_trusted(caller)) return fail(EPERM);
  if (!value) return {};
  const auto policy = parse_pin_policy(*value);
  if (!policy || !inode.is_regular()) return fail(EINVAL);
  if (*policy == PinPolicy::ignore && !mount_.options.unsafe_demo) return fail(EINVAL);
  return {};
}

void Policies::changed(Inode& inode, const std::string& path) {
  inode.pin_policy.reset();
  if (of(inode) == PinPolicy::ignore) {
    spdlog::warn("{}{}: has pin_policy=ignore now: holders WILL see and cause corruption",
                 mount_.mountpoint, path);
  }
  gate_.rejudge(inode.number);
}

}  // namespace daxfs
