package lab

import (
	"strings"
	"testing"
)

func TestRemedy(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces="},
		{"nothing", "", "--privileged"},
	} {
		got := remedy(func(name string) string {
			if name == c.name {
				return c.value
			}
			return ""
		})
		if !strings.Contains(got, c.want) {
			t.Errorf("%s=%s: %q", c.name, c.value, got)
		}
	}
}
