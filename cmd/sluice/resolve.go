package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/admin"
)

// resolver turns what people call the ends of a connection into addresses.
type resolver struct {
	cmd    *cobra.Command
	client *admin.Client
	said   io.Writer // gets what each name stands for
}

// destination resolves DST:PORT[/PROTOCOL].
func (r resolver) destination(text string) (addrPort, protocol string, err error) {
	host, port, ok := cutLast(text, ":")
	if !ok {
		return "", "", fmt.Errorf("%q: expected DST:PORT", text)
	}
	port, protocol, given := strings.Cut(port, "/")
	if !given {
		protocol = "tcp"
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return host + ":" + port, protocol, nil
	}
	if kind, name, ok := strings.Cut(host, "/"); ok {
		switch kind {
		case "pod":
			ips, err := r.pod(name)
			if err != nil {
				return "", "", err
			}
			_, _ = fmt.Fprintf(r.said, "%s is %s\n", host, ips[0])
			return net.JoinHostPort(ips[0], port), protocol, nil
		case "svc", "service":
			namespace, name, ok := strings.Cut(name, "/")
			if !ok {
				return "", "", fmt.Errorf("%q: expected %s/NAMESPACE/NAME", host, kind)
			}
			addrPort, found, err := r.service(host, namespace, name, port, protocol)
			if err == nil && !found {
				err = fmt.Errorf("there is no Service %s/%s", namespace, name)
			}
			return addrPort, protocol, err
		}
		return "", "", fmt.Errorf("%q: expected an address, a name, pod/NAMESPACE/NAME or svc/NAMESPACE/NAME", host)
	}
	if strings.Count(host, ".") <= 1 {
		// As in a Pod of the namespace default: NAME or NAME.NAMESPACE.
		name, namespace, given := strings.Cut(host, ".")
		if !given {
			namespace = "default"
		}
		if addrPort, found, err := r.service(host, namespace, name, port, protocol); err != nil || found {
			return addrPort, protocol, err
		}
	}
	addrPort, err = r.name(host, port)
	return addrPort, protocol, err
}

// source resolves SRC. Of a Pod's addresses it takes that of the destination's
// family.
func (r resolver) source(text, destination string) (string, error) {
	name, ok := strings.CutPrefix(text, "pod/")
	if !ok {
		if _, err := netip.ParseAddr(text); err == nil || text == "node" {
			return text, nil
		}
		// The node's DNS knows Services by their whole names, and Pods by those
		// that their Services give them.
		kinds := []string{"A", "AAAA"}
		if strings.HasPrefix(destination, "[") {
			kinds = []string{"AAAA"}
		}
		return r.lookup(text, kinds...)
	}
	ips, err := r.pod(name)
	if err != nil {
		return "", err
	}
	ip := ips[0]
	for _, other := range ips {
		if strings.Contains(other, ":") == strings.HasPrefix(destination, "[") {
			ip = other
		}
	}
	_, _ = fmt.Fprintf(r.said, "%s is %s\n", text, ip)
	return ip, nil
}

// pod returns the addresses of the Pod NAMESPACE/NAME.
func (r resolver) pod(name string) ([]string, error) {
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		return nil, fmt.Errorf("%q: expected pod/NAMESPACE/NAME", "pod/"+namespace)
	}
	var pod corev1.Pod
	if err := r.object("pods", namespace, name, &pod); err != nil {
		return nil, err
	}
	var ips []string
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("the Pod %s/%s has no address", namespace, name)
	}
	return ips, nil
}

// service returns the ClusterIP and port of a Service. A port may be named.
func (r resolver) service(called, namespace, name, port, protocol string) (addrPort string, found bool, err error) {
	var svc corev1.Service
	err = r.object("services", namespace, name, &svc)
	if _, missing := errors.AsType[*missingError](err); missing {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	ip := svc.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone {
		return "", false, fmt.Errorf("the Service %s/%s has no clusterIP", namespace, name)
	}
	if _, err := strconv.Atoi(port); err != nil {
		var names []string
		for _, p := range svc.Spec.Ports {
			names = append(names, p.Name)
			if p.Name == port && strings.EqualFold(string(p.Protocol), protocol) {
				port = strconv.Itoa(int(p.Port))
			}
		}
		if _, err := strconv.Atoi(port); err != nil {
			return "", false, fmt.Errorf("the Service %s/%s has no %s port %q; it has %q", namespace, name, protocol, port, names)
		}
	}
	_, err = fmt.Fprintf(r.said, "%s is %s: the clusterIP of the Service %s/%s\n", called, ip, namespace, name)
	return net.JoinHostPort(ip, port), true, err
}

// name asks the node's own DNS for the address of a name.
func (r resolver) name(host, port string) (string, error) {
	addr, err := r.lookup(host, "A", "AAAA")
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(addr, port), nil
}

// lookup returns the first address of a name, of the first type that has one.
func (r resolver) lookup(host string, kinds ...string) (string, error) {
	var answer dns.Explanation
	for _, kind := range kinds {
		answer = dns.Explanation{}
		if err := r.client.Ask(r.cmd.Context(), "dns", url.Values{"name": {host}, "type": {kind}}, &answer); err != nil {
			return "", err
		}
		for _, record := range answer.Answer {
			fields := strings.Fields(record)
			if addr, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
				_, _ = fmt.Fprintf(r.said, "%s is %s: %s\n", host, addr, answer.Reason)
				return addr.String(), nil
			}
		}
	}
	return "", fmt.Errorf("%s: %s (%s)", host, answer.Rcode, answer.Reason)
}

// missingError says that there is no such object.
type missingError struct{ err error }

func (e *missingError) Error() string { return e.err.Error() }
func (e *missingError) Unwrap() error { return e.err }

// object reads one object of a table.
func (r resolver) object(resource, namespace, name string, into any) error {
	table, err := r.client.Table(r.cmd.Context(), resource)
	if err != nil {
		return err
	}
	table, err = admin.Select(table, namespace, []string{name})
	if err != nil {
		return &missingError{fmt.Errorf("%s: %w", resource, err)}
	}
	object, _ := table.Rows[0].Object.(map[string]any)
	return runtime.DefaultUnstructuredConverter.FromUnstructured(object, into)
}
