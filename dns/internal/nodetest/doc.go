// Package nodetest asks a name server on a node from its pods, with dig and
// through the kernel's network namespaces. It has only tests.
package nodetest
