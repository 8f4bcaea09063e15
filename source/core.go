package source

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/sluicenet/sluice/model"
)

// toBeDeletedTaint is what the cluster autoscaler puts on a node that it is
// about to remove (KEP-3836).
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

func convertPod(in *corev1.Pod, f *findings) []Value {
	p := &model.Pod{
		Meta:           meta(&in.ObjectMeta),
		Node:           intern(in.Spec.NodeName),
		ServiceAccount: intern(in.Spec.ServiceAccountName),
		Hostname:       in.Spec.Hostname,
		Subdomain:      intern(in.Spec.Subdomain),
		HostNetwork:    in.Spec.HostNetwork,
		Terminated:     in.Status.Phase == corev1.PodSucceeded || in.Status.Phase == corev1.PodFailed,
		Deleting:       in.DeletionTimestamp != nil,
	}
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default"
	}
	ips := in.Status.PodIPs
	if len(ips) == 0 && in.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: in.Status.PodIP}}
	}
	for i, ip := range ips {
		if a, ok := addr(f, fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP); ok {
			p.IPs = append(p.IPs, a)
		}
	}
	hosts := in.Status.HostIPs
	if len(hosts) == 0 && in.Status.HostIP != "" {
		hosts = []corev1.HostIP{{IP: in.Status.HostIP}}
	}
	for i, ip := range hosts {
		if a, ok := addr(f, fmt.Sprintf("status.hostIPs[%d].ip", i), ip.IP); ok {
			p.HostIPs = append(p.HostIPs, a)
		}
	}
	for _, c := range in.Status.Conditions {
		if c.Type == corev1.PodReady {
			p.Ready = c.Status == corev1.ConditionTrue
		}
	}
	for i, c := range in.Spec.InitContainers {
		// Sidecar containers run as long as the pod does (KEP-753).
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			p.Ports = containerPorts(p.Ports, c.Ports, fmt.Sprintf("spec.initContainers[%d]", i), f)
		}
	}
	for i, c := range in.Spec.Containers {
		p.Ports = containerPorts(p.Ports, c.Ports, fmt.Sprintf("spec.containers[%d]", i), f)
	}
	return []Value{p}
}

func containerPorts(out []model.ContainerPort, in []corev1.ContainerPort, at string, f *findings) []model.ContainerPort {
	for i, c := range in {
		port, ok := portNumber(f, fmt.Sprintf("%s.ports[%d].containerPort", at, i), c.ContainerPort)
		if !ok {
			continue
		}
		if c.Protocol == "" {
			c.Protocol = corev1.ProtocolTCP
		}
		out = append(out, model.ContainerPort{Name: intern(c.Name), Protocol: c.Protocol, Port: port})
	}
	return out
}

func convertNode(in *corev1.Node, f *findings) []Value {
	n := &model.Node{Meta: meta(&in.ObjectMeta), Deleting: in.DeletionTimestamp != nil}
	for i, a := range in.Status.Addresses {
		field := fmt.Sprintf("status.addresses[%d].address", i)
		switch a.Type {
		case corev1.NodeInternalIP:
			if ip, ok := addr(f, field, a.Address); ok {
				n.InternalIPs = append(n.InternalIPs, ip)
			}
		case corev1.NodeExternalIP:
			if ip, ok := addr(f, field, a.Address); ok {
				n.ExternalIPs = append(n.ExternalIPs, ip)
			}
		case corev1.NodeHostName:
			n.Hostname = a.Address
		}
	}
	cidrs, field := in.Spec.PodCIDRs, "spec.podCIDRs"
	if len(cidrs) == 0 && in.Spec.PodCIDR != "" {
		cidrs = []string{in.Spec.PodCIDR}
	}
	n.PodCIDRs = prefixes(f, field, cidrs)
	for _, t := range in.Spec.Taints {
		n.Deleting = n.Deleting || t.Key == toBeDeletedTaint
	}
	return []Value{n}
}

func convertServiceCIDR(in *networkingv1.ServiceCIDR, f *findings) []Value {
	c := &model.ServiceCIDR{Meta: slimMeta(&in.ObjectMeta), CIDRs: prefixes(f, "spec.cidrs", in.Spec.CIDRs)}
	switch {
	case len(in.Spec.CIDRs) == 0:
		f.missing("spec.cidrs", "a list of one or two address ranges")
	case len(c.CIDRs) > 2 || len(c.CIDRs) == 2 && c.CIDRs[0].Addr().Is4() == c.CIDRs[1].Addr().Is4():
		f.bad("spec.cidrs", "at most one range of each family", fmt.Sprint(in.Spec.CIDRs))
		c.CIDRs = c.CIDRs[:1]
	}
	if len(c.CIDRs) == 0 {
		return nil
	}
	return []Value{c}
}

func convertNamespace(in *corev1.Namespace, _ *findings) []Value {
	return []Value{&model.Namespace{Meta: meta(&in.ObjectMeta)}}
}

func convertServiceAccount(in *corev1.ServiceAccount, _ *findings) []Value {
	return []Value{&model.ServiceAccount{Meta: slimMeta(&in.ObjectMeta)}}
}

// convertSecret merges stringData into data, as the API server does. What
// can only be something else than a certificate, a key or a password for
// sluice is known by name alone.
func convertSecret(in *corev1.Secret, f *findings) []Value {
	s := &model.Secret{Meta: slimMeta(&in.ObjectMeta), Type: in.Type}
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		// By its token a workload of a directory of manifests proves who it is.
		if token := in.Data[corev1.ServiceAccountTokenKey]; len(token) > 0 {
			s.Data = map[string][]byte{corev1.ServiceAccountTokenKey: token}
		} else if token := in.StringData[corev1.ServiceAccountTokenKey]; token != "" {
			s.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
		}
		return []Value{s}
	case "helm.sh/release.v1", corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg, corev1.SecretTypeBootstrapToken:
		return []Value{s}
	}
	s.Data = in.Data
	for k, v := range in.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	size := 0
	for _, v := range s.Data {
		size += len(v)
	}
	if size > corev1.MaxSecretSize {
		f.bad("data", fmt.Sprintf("at most %d bytes", corev1.MaxSecretSize), size)
	}
	if s.Type == corev1.SecretTypeTLS {
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, has := s.Data[key]; !has {
				f.missing("data["+key+"]", "there in a Secret of type "+string(s.Type))
			}
		}
	}
	return []Value{s}
}

func convertConfigMap(in *corev1.ConfigMap, _ *findings) []Value {
	c := &model.ConfigMap{Meta: slimMeta(&in.ObjectMeta)}
	if len(in.Data) > 0 {
		c.Data = make(map[string]string, len(in.Data))
		for k, v := range in.Data {
			c.Data[intern(k)] = v
		}
	}
	return []Value{c}
}
