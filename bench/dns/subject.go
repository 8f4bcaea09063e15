package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// subject is a name server.
type subject struct {
	name string
	// command writes what the server reads into a folder and returns how it is
	// started.
	command func(dir string) ([]string, error)
	last    string               // a name that it knows when it is ready
	before  func(w *world) error // prepares what the server needs; nil: nothing
}

// Where the servers answer, and the upstream for what they do not know.
const (
	serverAddress   = "127.0.0.1:5300"
	upstreamAddress = "127.0.0.1:5301"
)

// services are so many Services, with addresses from 10.96.0.0/12.
const services = 1000

func serviceName(i int) string { return fmt.Sprintf("service-%d.default.svc.cluster.local", i) }

func serviceIP(i int) string { return fmt.Sprintf("10.97.%d.%d", i>>8, i&255) }

// subjectsOf returns the servers that are wanted and there.
func subjectsOf(o options, wanted []string) []subject {
	all := []subject{{name: "sluice", command: func(dir string) ([]string, error) { return sluice(o.sluice, dir) }}}
	if o.coredns != "" {
		all = append(all, subject{name: "coredns", command: func(dir string) ([]string, error) { return coredns(o.coredns, dir) }})
	}
	for name, command := range map[string]func(path, dir string) ([]string, error){"unbound": unbound, "dnsmasq": dnsmasq} {
		if path, err := exec.LookPath(name); err == nil {
			all = append(all, subject{name: name, command: func(dir string) ([]string, error) { return command(path, dir) }})
		} else if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
			all = append(all, subject{name: name, command: func(dir string) ([]string, error) { return command(path, dir) }})
		}
	}
	all = slices.DeleteFunc(all, func(s subject) bool { return !slices.Contains(wanted, s.name) })
	for i := range all {
		all[i].last = serviceName(services - 1)
	}
	slices.SortFunc(all, func(a, b subject) int { return slices.Index(wanted, a.name) - slices.Index(wanted, b.name) })
	return all
}

// sluice answers cluster names from Services in a directory. It intercepts nothing,
// as none of the others does: rules that every packet of the node passes are no part
// of a server's cost.
func sluice(path, dir string) ([]string, error) {
	manifests := filepath.Join(dir, "manifests")
	if err := os.Mkdir(manifests, 0o755); err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
	for i := range services {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: service-%d, namespace: default}\nspec: {clusterIP: %s, ports: [{port: 80}]}\n", i, serviceIP(i))
	}
	if err := os.WriteFile(filepath.Join(manifests, "services.yaml"), []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	return []string{
		path, "node", "--manifests", manifests, "--node-name", "node1", "--proxy-mode", "none",
		"--socket", filepath.Join(dir, "socket"), "--state-dir", filepath.Join(dir, "state"), "--metrics", "",
		"--dns-listen", serverAddress, "--dns-upstreams", upstreamAddress, "--dns-intercept-mode", "off",
	}, nil
}

// coredns is configured as NodeLocal DNSCache is, other than for addresses. It
// has cluster names from the upstream, like every cache.
func coredns(path, dir string) ([]string, error) {
	block := `%s {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    bind 127.0.0.1
    forward . ` + upstreamAddress + ` %s
    prometheus 127.0.0.1:9253
}
`
	text := fmt.Sprintf(block, "cluster.local:5300", "{\n        force_tcp\n    }") + fmt.Sprintf(block, ".:5300", "")
	file := filepath.Join(dir, "Corefile")
	return []string{path, "-conf", file}, os.WriteFile(file, []byte(text), 0o644)
}

func unbound(path, dir string) ([]string, error) {
	text := `server:
  interface: 127.0.0.1@5300
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  num-threads: 1
  so-reuseport: yes
  use-syslog: no
  logfile: ""
  chroot: ""
  username: ""
  pidfile: ""
  directory: "` + dir + `"
  module-config: "iterator"
  edns-buffer-size: 1232
  local-zone: "local." nodefault
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@5301
remote-control:
  control-enable: no
`
	file := filepath.Join(dir, "unbound.conf")
	return []string{path, "-d", "-c", file}, os.WriteFile(file, []byte(text), 0o644)
}

func dnsmasq(path, dir string) ([]string, error) {
	return []string{
		path, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=", "--group=",
		"--listen-address=127.0.0.1", "--port=5300", "--server=127.0.0.1#5301", "--cache-size=20000", "--dns-forward-max=1000",
		"--pid-file=" + filepath.Join(dir, "pid"),
	}, nil
}
