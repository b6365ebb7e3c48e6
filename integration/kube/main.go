// Command kube is a whole cluster of Kubernetes for tests, in one binary: etcd, the parts of the control plane, the kubelet,
// kubectl and Helm. Its first argument names the program. They share most of their code, which is built and linked once.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	helm "helm.sh/helm/v4/pkg/cmd"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs are made when they are asked for: making one registers flags that are global.
var programs = map[string]func() (*cobra.Command, error){
	"kube-apiserver":          func() (*cobra.Command, error) { return apiserver.NewAPIServerCommand(), nil },
	"kube-controller-manager": func() (*cobra.Command, error) { return controllers.NewControllerManagerCommand(), nil },
	"kube-scheduler":          func() (*cobra.Command, error) { return scheduler.NewSchedulerCommand(), nil },
	"kubelet":                 func() (*cobra.Command, error) { return kubelet.NewKubeletCommand(context.Background()), nil },
	"kubectl":                 func() (*cobra.Command, error) { return kubectl.NewDefaultKubectlCommand(), nil },
	"helm":                    func() (*cobra.Command, error) { return helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging) },
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kube etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl|helm [argument ...]")
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	if os.Args[0] == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	newProgram, ok := programs[os.Args[0]]
	if !ok {
		fmt.Fprintf(os.Stderr, "kube: no program %q\n", os.Args[0])
		os.Exit(2)
	}
	program, err := newProgram()
	switch {
	case err != nil:
	case os.Args[0] == "helm": // which has another way with its flags
		err = program.Execute()
	default:
		err = cli.RunNoErrOutput(program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
