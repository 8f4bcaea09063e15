package gateways

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// Wanted is a gateway that a cluster should have.
type Wanted struct {
	Group   route.Group
	Gateway model.Name // without a namespace: the IngressClass of that name
	UID     string     // of the Gateway object, which then owns what is made
	Ports   []uint16
}

// Cluster deploys a gateway for each Gateway and IngressClass of a cluster: a
// ServiceAccount, a Deployment and a Service of type LoadBalancer, all called
// "<name>-sluice" and, for an IngressClass, in the control plane's namespace.
type Cluster struct {
	Client kubernetes.Interface
	// Namespace is where the gateways of IngressClasses are.
	Namespace string
	// Image holds this program and an Envoy.
	Image string
	// ControlPlane is the address that gateways connect to, host:port.
	ControlPlane string
	Log          *slog.Logger

	mu      sync.Mutex // guards all below
	wanted  map[route.Group]Wanted
	gone    map[route.Group]Wanted
	changed chan struct{}
}

// Labels of what is deployed. The first is the Gateway API's (GEP-1762).
const (
	labelGateway = "gateway.networking.k8s.io/gateway-name"
	labelManaged = "app.kubernetes.io/managed-by"
	manager      = "sluice"
)

// ObjectName is the name of what is deployed for a Gateway or IngressClass.
func ObjectName(name string) string { return name + "-sluice" }

// ServiceOf names the Service in front of a gateway.
func (c *Cluster) ServiceOf(gateway model.Name) model.Name {
	if gateway.Namespace == "" {
		return model.Name{Namespace: c.Namespace, Name: ObjectName(gateway.Name)}
	}
	return model.Name{Namespace: gateway.Namespace, Name: ObjectName(gateway.Name)}
}

// Want adds or replaces a gateway.
func (c *Cluster) Want(w Wanted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init()
	delete(c.gone, w.Group)
	c.wanted[w.Group] = w
	c.wake()
}

// Drop removes a gateway.
func (c *Cluster) Drop(g route.Group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init()
	if w, ok := c.wanted[g]; ok {
		delete(c.wanted, g)
		c.gone[g] = w
		c.wake()
	}
}

func (c *Cluster) init() {
	if c.changed == nil {
		c.wanted, c.gone = map[route.Group]Wanted{}, map[route.Group]Wanted{}
		c.changed = make(chan struct{}, 1)
	}
}

func (c *Cluster) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// resync is how often what is deployed is applied again, so that what somebody
// else removed comes back.
const resync = 5 * time.Minute

// Run applies what is wanted until the context ends. What fails is tried again.
func (c *Cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	c.init()
	c.mu.Unlock()
	wait := resync
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.changed:
		case <-time.After(wait):
		}
		wait = resync
		c.mu.Lock()
		wanted, gone := maps.Clone(c.wanted), c.gone
		c.gone = map[route.Group]Wanted{}
		c.mu.Unlock()
		for g, w := range gone {
			if err := c.remove(ctx, w); err != nil {
				c.Log.Error("gateway cannot be removed", "group", g, "error", err)
			}
		}
		for g, w := range wanted {
			if err := c.apply(ctx, w); err != nil {
				c.Log.Error("gateway cannot be deployed", "group", g, "error", err)
				wait = 2 * time.Second
			}
		}
	}
}

func (c *Cluster) apply(ctx context.Context, w Wanted) error {
	at := c.ServiceOf(w.Gateway)
	meta := c.meta(w)
	options := metav1.PatchOptions{FieldManager: manager, Force: new(true)}
	put := func(what string, obj any, patch func([]byte) error) error {
		b, err := json.Marshal(obj)
		if err != nil {
			return err
		}
		if err := patch(b); err != nil {
			return fmt.Errorf("%s %s: %w", what, at, err)
		}
		return nil
	}
	core, apps := c.Client.CoreV1(), c.Client.AppsV1()
	account := &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta}
	if err := put("ServiceAccount", account, func(b []byte) error {
		_, err := core.ServiceAccounts(at.Namespace).Patch(ctx, at.Name, types.ApplyPatchType, b, options)
		return err
	}); err != nil {
		return err
	}
	if err := put("Deployment", c.deployment(w, meta), func(b []byte) error {
		_, err := apps.Deployments(at.Namespace).Patch(ctx, at.Name, types.ApplyPatchType, b, options)
		return err
	}); err != nil {
		return err
	}
	return put("Service", service(w, meta), func(b []byte) error {
		_, err := core.Services(at.Namespace).Patch(ctx, at.Name, types.ApplyPatchType, b, options)
		return err
	})
}

func (c *Cluster) remove(ctx context.Context, w Wanted) error {
	at := c.ServiceOf(w.Gateway)
	core, apps := c.Client.CoreV1(), c.Client.AppsV1()
	for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{
		core.Services(at.Namespace).Delete, apps.Deployments(at.Namespace).Delete, core.ServiceAccounts(at.Namespace).Delete,
	} {
		if err := remove(ctx, at.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (c *Cluster) meta(w Wanted) metav1.ObjectMeta {
	at := c.ServiceOf(w.Gateway)
	meta := metav1.ObjectMeta{
		Namespace: at.Namespace, Name: at.Name,
		Labels: map[string]string{labelGateway: w.Gateway.Name, labelManaged: manager},
	}
	if w.UID != "" {
		// The Gateway's deletion takes everything along, also while we are away.
		meta.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "gateway.networking.k8s.io/v1", Kind: "Gateway", Name: w.Gateway.Name, UID: types.UID(w.UID),
		}}
	}
	return meta
}

func service(w Wanted, meta metav1.ObjectMeta) *corev1.Service {
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta,
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: selector(w)},
	}
	for _, p := range w.Ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("port-%d", p), Port: int32(p), TargetPort: intstr.FromInt32(int32(p)), Protocol: corev1.ProtocolTCP,
		})
	}
	return s
}

func selector(w Wanted) map[string]string {
	return map[string]string{labelGateway: w.Gateway.Name, labelManaged: manager}
}

// tokenLife is how long the token lives with which a gateway first asks for
// its certificate; the kubelet renews it.
const tokenLife = 3600

func (c *Cluster) deployment(w Wanted, meta metav1.ObjectMeta) *appsv1.Deployment {
	name := c.ServiceOf(w.Gateway).Name
	container := corev1.Container{
		Name: "gateway", Image: c.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{
			"/sluice", "gateway", "--group", string(w.Group), "--control-plane", c.ControlPlane,
			"--roots", "/etc/sluice/" + ca.RootsKey, "--token", "/run/secrets/sluice/token", "--run-dir", "/run/sluice/private",
			"--instance", "$(POD_NAME)",
		},
		Env: []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
		ReadinessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(15021)}},
			PeriodSeconds: 1,
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "roots", MountPath: "/etc/sluice"}, {Name: "token", MountPath: "/run/secrets/sluice"}, {Name: "run", MountPath: "/run/sluice"},
		},
	}
	// The container names no ports: it listens on what it is told to, and a new
	// listener of the Gateway must not replace its Pods.
	spec := corev1.PodSpec{
		ServiceAccountName: name,
		Containers:         []corev1.Container{container},
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(1337)), RunAsGroup: new(int64(1337)), FSGroup: new(int64(1337)),
			// Ports below 1024 need no right within the Pod's own network.
			Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}},
		},
		Volumes: []corev1.Volume{
			{Name: "roots", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: ca.RootsConfigMap}}}},
			{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "sluice-ca", ExpirationSeconds: new(int64(tokenLife)), Path: "token"},
			}}}}},
			{Name: "run", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: selector(w)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selector(w)}, Spec: spec},
		},
	}
}

// Address returns what clients reach a gateway by: the addresses that a load
// balancer gave its Service, else those inside the cluster. None means that
// the Service is not there yet.
func (c *Cluster) Address(snap *model.Snapshot, gateway model.Name) []string {
	at := c.ServiceOf(gateway)
	s, ok := model.Services.Get(snap, at.Namespace, at.Name)
	if !ok {
		return nil
	}
	var out []string
	for _, ip := range slices.Concat(s.LoadBalancerIPs, s.ExternalIPs) {
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		for _, ip := range s.ClusterIPs {
			out = append(out, ip.String())
		}
	}
	return out
}

// GroupOf returns the gateway whose Service this is, if it is one.
func (c *Cluster) GroupOf(service model.Name) (route.Group, bool) {
	name, ok := strings.CutSuffix(service.Name, ObjectName(""))
	if !ok {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range []route.Group{route.GatewayGroup(service.Namespace, name), route.GatewayGroup("", name)} {
		if w, ok := c.wanted[g]; ok && c.ServiceOf(w.Gateway) == service {
			return g, true
		}
	}
	return "", false
}
