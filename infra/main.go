// Command infra is the CDK app that deploys Varve on AWS: one stack, all of
// whose sizes and names are context values (see Config). docs/operations.md
// says how to use it.
//
//	npx aws-cdk@2.1148.1 deploy [-c size=dev] [-c name=…] …
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"
)

func main() {
	defer jsii.Close()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	app := awscdk.NewApp(nil)
	c, err := configOf(app)
	if err != nil {
		return err
	}
	assets, err := build(context.Background(), ".build", c)
	if err != nil {
		return err
	}
	newStack(app, c, assets)
	awscdk.Aspects_Of(app).Add(cdknag.NewAwsSolutionsChecks(nil), nil)
	app.Synth(nil)
	return nil
}
