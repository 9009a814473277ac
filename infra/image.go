package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsecr"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsecs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3assets"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// image is the brokers' image in a repository of the stack's own. It gets
// there without Docker: the deployment uploads the OCI layout as a file, and
// a function pushes it.
//
//	oci.Write ─▶ .build/image ──cdk asset──▶ S3 ──pushimage (custom resource)──▶ ECR ──▶ Fargate
type image struct {
	container awsecs.ContainerImage
	pushed    constructs.IDependable // the image can be pulled
}

func newImage(scope constructs.Construct, c Config, a Assets) image {
	scope = part(scope, "Image")
	repo := awsecr.NewRepository(scope, jsii.String("Repository"), &awsecr.RepositoryProps{
		ImageScanOnPush:    jsii.Bool(true),
		ImageTagMutability: awsecr.TagMutability_IMMUTABLE,
		LifecycleRules:     &[]*awsecr.LifecycleRule{{MaxImageCount: jsii.Number(10)}},
		EmptyOnDelete:      jsii.Bool(true),
		RemovalPolicy:      awscdk.RemovalPolicy_DESTROY,
	})
	layout := awss3assets.NewAsset(scope, jsii.String("Layout"), &awss3assets.AssetProps{Path: jsii.String(a.Image)})
	push := newFunction(scope, c, functionOptions{
		id: "Push", dir: a.Push, description: "pushes the brokers' image", memory: 1024, timeout: awscdk.Duration_Minutes(jsii.Number(5)),
	})
	layout.GrantRead(push.role)
	push.role.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart",
			"ecr:CompleteLayerUpload", "ecr:PutImage"),
		Resources: &[]*string{repo.RepositoryArn()},
	}))
	suppress(push.role, "AwsSolutions-IAM5", "reads the CDK's asset bucket, and makes log streams in its own log group")
	pushed := awscdk.NewCustomResource(scope, jsii.String("Pushed"), &awscdk.CustomResourceProps{
		ServiceToken: push.fn.FunctionArn(), ResourceType: jsii.String("Custom::VarveImage"),
		Properties: &map[string]any{
			"Repository": repo.RepositoryName(), "Digest": a.Digest,
			"Bucket": layout.S3BucketName(), "Key": layout.S3ObjectKey(),
		},
	})
	pushed.Node().AddDependency(push.role)
	return image{container: awsecs.ContainerImage_FromEcrRepository(repo, jsii.String(a.Digest)), pushed: pushed}
}

// lambdaRuntime is what all functions of the stack run on.
func lambdaRuntime(c Config) (awslambda.Runtime, awslambda.Architecture) {
	if c.Arch == "amd64" {
		return awslambda.Runtime_PROVIDED_AL2023(), awslambda.Architecture_X86_64()
	}
	return awslambda.Runtime_PROVIDED_AL2023(), awslambda.Architecture_ARM_64()
}
