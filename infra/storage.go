package main

import (
	"slices"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// storage is what holds everything: all else can be thrown away.
type storage struct {
	bucket awss3.Bucket
	table  awsdynamodb.Table
	prefix string
}

func newStorage(scope constructs.Construct, c Config) storage {
	scope = part(scope, "Storage")
	removal, keep := awscdk.RemovalPolicy_RETAIN, true
	if c.Disposable {
		removal, keep = awscdk.RemovalPolicy_DESTROY, false
	}
	s := storage{prefix: c.Prefix}
	// No versioning: a put is create-only, and a delete marker would let a
	// second writer create a key that a seal holds. No expiration of any
	// kind: seals stay for ever, everything else is deleted by the functions.
	s.bucket = awss3.NewBucket(scope, jsii.String("Bucket"), &awss3.BucketProps{
		Encryption:        awss3.BucketEncryption_S3_MANAGED,
		BlockPublicAccess: awss3.BlockPublicAccess_BLOCK_ALL(),
		ObjectOwnership:   awss3.ObjectOwnership_BUCKET_OWNER_ENFORCED,
		EnforceSSL:        jsii.Bool(true),
		MinimumTLSVersion: jsii.Number(1.2),
		LifecycleRules: &[]*awss3.LifecycleRule{{
			Id:                                  jsii.String("abort-multipart-uploads"),
			AbortIncompleteMultipartUploadAfter: awscdk.Duration_Days(jsii.Number(1)),
		}},
		Metrics:           &[]*awss3.BucketMetrics{{Id: jsii.String("all")}},
		RemovalPolicy:     removal,
		AutoDeleteObjects: jsii.Bool(!keep),
	})
	suppress(s.bucket, "AwsSolutions-S1", "an access log would hold a line for each object written and read and cost more than the log itself; request metrics are on, CloudTrail data events can be switched on for an audit")
	s.table = awsdynamodb.NewTable(scope, jsii.String("Table"), &awsdynamodb.TableProps{
		PartitionKey: &awsdynamodb.Attribute{Name: jsii.String("pk"), Type: awsdynamodb.AttributeType_STRING},
		SortKey:      &awsdynamodb.Attribute{Name: jsii.String("sk"), Type: awsdynamodb.AttributeType_STRING},
		BillingMode:  awsdynamodb.BillingMode_PAY_PER_REQUEST,
		PointInTimeRecoverySpecification: &awsdynamodb.PointInTimeRecoverySpecification{
			PointInTimeRecoveryEnabled: jsii.Bool(true),
		},
		DeletionProtection: jsii.Bool(keep),
		RemovalPolicy:      removal,
	})
	output(scope, "Bucket", s.bucket.BucketName(), "objects: --bucket")
	output(scope, "Table", s.table.TableName(), "metadata: --table")
	s.reader(scope)
	return s
}

// reader makes a policy for those who replay: they need no broker and write nothing.
func (s storage) reader(scope constructs.Construct) {
	p := awsiam.NewManagedPolicy(scope, jsii.String("Reader"), &awsiam.ManagedPolicyProps{
		Description: jsii.String("reads records and metadata: varve replay, varve verify"),
	})
	allow := func(resource *string, actions ...string) {
		p.AddStatements(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: jsii.Strings(actions...), Resources: &[]*string{resource}}))
	}
	allow(s.table.TableArn(), "dynamodb:GetItem", "dynamodb:Query")
	allow(s.bucket.BucketArn(), "s3:ListBucket")
	allow(s.objects(""), "s3:GetObject")
	suppress(p, "AwsSolutions-IAM5", "object keys are made by the program; all of a log's objects may be read")
	output(scope, "ReaderPolicy", p.ManagedPolicyArn(), "policy for those who replay or verify")
}

// objects returns the ARN of the objects under a prefix of the log's keys.
func (s storage) objects(under string) *string {
	return s.bucket.ArnForObjects(jsii.String(s.under() + under + "*"))
}

// under returns the prefix of all keys, with its slash.
func (s storage) under() string {
	if s.prefix == "" {
		return ""
	}
	return s.prefix + "/"
}

// grant allows what the adapters call: conditional writes to the table, lists
// of the bucket, and the given actions on objects.
func (s storage) grant(role awsiam.Role, objects map[string][]string) {
	allow := func(resource *string, actions ...string) awsiam.PolicyStatement {
		st := awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions: jsii.Strings(actions...), Resources: &[]*string{resource},
		})
		role.AddToPolicy(st)
		return st
	}
	allow(s.table.TableArn(), "dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem",
		"dynamodb:DeleteItem", "dynamodb:ConditionCheckItem", "dynamodb:DescribeTable")
	list := allow(s.bucket.BucketArn(), "s3:ListBucket")
	if s.prefix != "" {
		list.AddCondition(jsii.String("StringLike"), map[string]any{"s3:prefix": s.under() + "*"})
	}
	sweeps := false
	for _, under := range sorted(objects) {
		allow(s.objects(under), objects[under]...)
		sweeps = sweeps || slices.Contains(objects[under], "s3:AbortMultipartUpload") && slices.Contains(objects[under], "s3:DeleteObject")
	}
	if sweeps { // of unfinished uploads, which the condition on prefixes does not know of
		allow(s.bucket.BucketArn(), "s3:ListBucketMultipartUploads")
	}
	suppress(role, "AwsSolutions-IAM5", "object keys are made by the program: a role is held to the prefixes and actions that it needs")
}
