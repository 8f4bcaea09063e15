package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/remote"
	"github.com/sluicenet/sluice/internal/showcase"
)

// enterOne enters the Pod of an application.
func (c *cluster) enterOne(ctx context.Context, app string) (*remote.Client, error) {
	pods, err := c.pods(ctx, namespace, "app="+app)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("there is no Pod of %s", app)
	}
	return c.enter(ctx, pods[0])
}

// enter runs `sluice remote` beside the application of a Pod, and speaks to it.
func (c *cluster) enter(ctx context.Context, pod corev1.Pod) (client *remote.Client, err error) {
	err = showcase.Until(ctx, patience, "enter Pod "+pod.Name, func(ctx context.Context) error {
		client, err = c.tryEnter(ctx, pod)
		return err
	})
	return client, err
}

func (c *cluster) tryEnter(ctx context.Context, pod corev1.Pod) (*remote.Client, error) {
	cmd := exec.Command("kubectl", "-n", pod.Namespace, "exec", "-i", pod.Name, "-c", pod.Spec.Containers[0].Name, "--", "/sluice", "remote")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client, err := remote.NewClient(ctx, out, in)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	c.remotes, c.clients = append(c.remotes, cmd), append(c.clients, client)
	return client, nil
}

// close leaves the Pods.
func (c *cluster) close() {
	for _, client := range c.clients {
		_ = client.Close()
	}
	for _, cmd := range c.remotes {
		// Its end is the end of its input.
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	}
}

// withStderr adds what a command wrote to its error.
func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}
