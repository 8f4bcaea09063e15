package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
)

// startSidecars gives each Pod that has one its redirect rules and its sidecar,
// as `sluice inject` does on a cluster. A sidecar is told from its application
// by its user, or by a mark on its packets where only one user can be had.
func (d *demo) startSidecars(ctx context.Context) error {
	for _, pod := range d.meshed {
		if err := d.startSidecar(ctx, pod); err != nil {
			return fmt.Errorf("the sidecar of %s: %w", pod.Name, err)
		}
		d.sidecars++
	}
	d.place.Want = 1 + d.sidecars
	return showcase.Until(ctx, patience, "a request from sidecar to sidecar",
		showcase.Ask(d.place.OrdersFrom(d.place.Frontend).Ask).Succeeds)
}

func (d *demo) startSidecar(ctx context.Context, pod *model.Pod) error {
	ns := d.pods[pod.Name].Namespace
	user := &syscall.Credential{Uid: mesh.ProxyUID, Gid: mesh.ProxyUID}
	redirect := []string{"redirect"}
	var marked []string
	if !lab.HasUser(mesh.ProxyUID) {
		user = &syscall.Credential{NoSetGroups: true} // root, the one there is
		mark := strconv.Itoa(mesh.ProxyUID)
		redirect, marked = append(redirect, "--proxy-mark", mark), []string{"--mark", mark}
	}
	if out, err := ns.Command(ctx, d.binary, redirect...).CombinedOutput(); err != nil {
		return fmt.Errorf("sluice redirect: %w: %s", err, out)
	}
	run := filepath.Join(d.dir, pod.Name)
	token := filepath.Join(run, "token")
	secret, err := d.token(pod)
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.Mkdir(run, 0o700),
		os.WriteFile(token, secret, 0o600),
		os.Chown(token, int(user.Uid), int(user.Gid)),
		os.Chown(run, int(user.Uid), int(user.Gid)),
	); err != nil {
		return err
	}
	_, err = d.startAs(user, ns, "sluice sidecar in "+pod.Name, append([]string{
		d.binary, "sidecar",
		"--pod", pod.Name, "--namespace", pod.Namespace,
		"--control-plane", netip.AddrPortFrom(d.nodes["node1"].IPv4(), mesh.ControlPlanePort).String(),
		"--roots", filepath.Join(d.state("node1"), ca.RootsFile),
		"--token", token,
		"--run-dir", run,
		"--envoy", d.envoy,
	}, marked...)...)
	return err
}

// token finds the token of a Pod's ServiceAccount in the manifests.
func (d *demo) token(pod *model.Pod) ([]byte, error) {
	for _, secret := range d.secrets {
		if secret.Type == corev1.SecretTypeServiceAccountToken && secret.Namespace == pod.Namespace &&
			secret.Annotations[corev1.ServiceAccountNameKey] == pod.ServiceAccount {
			return secret.Data[corev1.ServiceAccountTokenKey], nil
		}
	}
	return nil, fmt.Errorf("there is no Secret with a token of the ServiceAccount %s", pod.ServiceAccount)
}
