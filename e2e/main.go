// Command e2e shows the demo's table on the cluster of $KUBECONFIG, where
// hack/e2e has installed sluice and the quick start.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sluicenet/sluice/internal/showcase"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

// patience is how long a cluster may take until what was applied works.
const patience = 2 * time.Minute

func run(ctx context.Context) error {
	started := time.Now()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return err
	}
	config.QPS = -1 // edits are timed
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	c := &cluster{client: client, objects: objects, table: showcase.NewTable(os.Stdout)}
	defer c.close()
	place, err := c.place(ctx)
	if err != nil {
		return err
	}
	if err := place.Ready(ctx, patience); err != nil {
		return err
	}
	if err := c.status(ctx); err != nil {
		return err
	}
	if err := place.Show(ctx); err != nil {
		return err
	}
	c.table.Summary(time.Since(started))
	if _, failed := c.table.Lines(); failed > 0 {
		return errors.New("not everything is as expected")
	}
	return nil
}
