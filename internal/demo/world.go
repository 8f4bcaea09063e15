package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// world is the cluster that the manifests describe: its Nodes and Pods as
// network namespaces with an echo server in each Pod, and a client outside.
type world struct {
	lab     *lab.Lab
	client  *lab.Client
	nodes   map[string]*lab.Node
	pods    map[string]*lab.Pod
	meshed  []*model.Pod // those with a sidecar
	secrets []*model.Secret
	dir     string // private, removed in the end
	fail    context.CancelCauseFunc
	follow  *follower
	procs   []*process

	servers []*echo.Server // of the Pods
	bound   []func() error // takes programs out of dir
}

// manifests is the private copy that sluice reads.
func (w *world) manifests() string { return filepath.Join(w.dir, "manifests") }

// state is the state directory of a node's sluice, and socket where it is asked.
func (w *world) state(node string) string  { return filepath.Join(w.dir, node, "state") }
func (w *world) socket(node string) string { return filepath.Join(w.dir, node, "run", "sluice.sock") }

// newWorld builds the lab of the manifests. dir is for its files, and belongs to
// it from then on.
func newWorld(dir string, manifests fs.FS) (_ *world, err error) {
	w := &world{nodes: map[string]*lab.Node{}, pods: map[string]*lab.Pod{}, dir: dir}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err := os.CopyFS(w.manifests(), manifests); err != nil {
		return nil, err
	}
	objects, err := decode(manifests)
	if err != nil {
		return nil, err
	}
	if w.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	if w.client, err = w.lab.Client("client"); err != nil {
		return nil, err
	}
	for _, o := range objects {
		if node, ok := o.Value.(*model.Node); ok {
			if err := w.addNode(node); err != nil {
				return nil, err
			}
		}
	}
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *model.Pod:
			if err := w.addPod(v); err != nil {
				return nil, err
			}
		case *model.Secret:
			w.secrets = append(w.secrets, v)
		}
	}
	return w, nil
}

// decode reads all manifests of a file system, in the order of their names.
func decode(files fs.FS) ([]source.Object, error) {
	var out []source.Object
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		objects, problems := source.Decode(b)
		for _, p := range problems {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, p))
		}
		out = append(out, objects...)
		return err
	})
	return out, err
}

func (w *world) addNode(node *model.Node) error {
	made, err := w.lab.Node(node.Name, node.PodCIDRs...)
	if err != nil {
		return err
	}
	if !slices.Equal(made.Addrs(), node.InternalIPs) {
		return fmt.Errorf("%s has addresses %v in its manifest and %v in the lab", node.Name, node.InternalIPs, made.Addrs())
	}
	w.nodes[node.Name] = made
	return nil
}

// addPod makes the Pod, with the resolv.conf that a kubelet would write.
func (w *world) addPod(pod *model.Pod) error {
	node := w.nodes[pod.Node]
	if node == nil {
		return fmt.Errorf("there is no Node %q for the Pod %s", pod.Node, pod.Name)
	}
	made, err := node.Pod(pod.Name, pod.IPs...)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("search %s.svc.cluster.local svc.cluster.local cluster.local\nnameserver %s\noptions ndots:5\n",
		pod.Namespace, node.IPv4())
	if err := made.SetResolvConf(conf); err != nil {
		return err
	}
	server, err := echo.Start(echo.Config{Name: pod.Name, HTTP: ":8080", TCP: ":9000", UDP: ":9000"}, made)
	if err != nil {
		return err
	}
	w.servers = append(w.servers, server)
	w.pods[pod.Name] = made
	if mesh.HasSidecar(pod) {
		w.meshed = append(w.meshed, pod)
	}
	return nil
}

// close ends everything and removes the private directory.
func (w *world) close() {
	if w.follow != nil {
		w.follow.close()
	}
	for _, server := range w.servers {
		_ = server.Close()
	}
	if w.lab != nil {
		w.lab.Close()
	}
	for _, unbind := range w.bound {
		_ = unbind()
	}
	_ = os.RemoveAll(w.dir)
}
