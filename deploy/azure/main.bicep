// What azuredeploy.json deploys, in Bicep: a store with its uploads, a signing key, identities with their least roles, Front Door.
// az deployment group create --resource-group models --template-file deploy/azure/main.bicep --parameters account=ACCOUNT vault=VAULT

@description('Name of the storage account.')
@minLength(3)
@maxLength(24)
param account string

@description('Name of the Key Vault that holds the online signing key.')
@maxLength(24)
param vault string

param location string = resourceGroup().location

var contributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
var reader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1' // Storage Blob Data Reader
var delegator = 'db58b8e5-c6ad-4a2a-8342-4190687cbf4a' // Storage Blob Delegator
var cryptoUser = '12338af0-0e69-4776-bea7-57ae8d297424' // Key Vault Crypto User

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: account
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_ZRS'
  }
  properties: {
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
  properties: {
    isVersioningEnabled: true
    deleteRetentionPolicy: {
      enabled: true
      days: 30
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: 30
    }
  }
}

resource models 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'models'
  properties: {
    publicAccess: 'None'
  }
}

resource uploads 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'uploads'
  properties: {
    publicAccess: 'None'
  }
}

resource keyVault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: vault
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    enablePurgeProtection: true
    accessPolicies: []
  }
}

resource online 'Microsoft.KeyVault/vaults/keys@2023-07-01' = {
  parent: keyVault
  name: 'modelsync-online'
  properties: {
    kty: 'EC'
    curveName: 'P-256'
    keyOps: [
      'sign'
      'verify'
    ]
  }
}

resource publisher 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'modelsync-publisher'
  location: location
}

resource webhook 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'modelsync-webhook'
  location: location
}

resource training 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'modelsync-training'
  location: location
}

resource publisherModelsContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: models
  name: guid(models.id, publisher.name, contributor)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', contributor)
    principalId: publisher.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource publisherStorageDelegator 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: storage
  name: guid(storage.id, publisher.name, delegator)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', delegator)
    principalId: publisher.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource publisherKeyVaultCryptoUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: keyVault
  name: guid(keyVault.id, publisher.name, cryptoUser)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cryptoUser)
    principalId: publisher.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource webhookModelsContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: models
  name: guid(models.id, webhook.name, contributor)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', contributor)
    principalId: webhook.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource webhookUploadsReader 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: uploads
  name: guid(uploads.id, webhook.name, reader)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', reader)
    principalId: webhook.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource webhookKeyVaultCryptoUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: keyVault
  name: guid(keyVault.id, webhook.name, cryptoUser)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cryptoUser)
    principalId: webhook.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource trainingUploadsContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: uploads
  name: guid(uploads.id, training.name, contributor)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', contributor)
    principalId: training.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource frontDoor 'Microsoft.Cdn/profiles@2023-05-01' = {
  name: 'modelsync'
  location: 'global'
  sku: {
    name: 'Standard_AzureFrontDoor'
  }
  properties: {}
}

resource endpoint 'Microsoft.Cdn/profiles/afdEndpoints@2023-05-01' = {
  parent: frontDoor
  name: account
  location: 'global'
  properties: {
    enabledState: 'Enabled'
  }
}

resource group 'Microsoft.Cdn/profiles/originGroups@2023-05-01' = {
  parent: frontDoor
  name: 'store'
  properties: {
    loadBalancingSettings: {
      sampleSize: 4
      successfulSamplesRequired: 3
      additionalLatencyInMilliseconds: 50
    }
  }
}

resource blobOrigin 'Microsoft.Cdn/profiles/originGroups/origins@2023-05-01' = {
  parent: group
  name: 'blob'
  dependsOn: [
    storage
  ]
  properties: {
    hostName: '${account}.blob.${environment().suffixes.storage}'
    originHostHeader: '${account}.blob.${environment().suffixes.storage}'
    httpsPort: 443
    priority: 1
    weight: 1000
  }
}

resource route 'Microsoft.Cdn/profiles/afdEndpoints/routes@2023-05-01' = {
  parent: endpoint
  name: 'store'
  dependsOn: [
    blobOrigin
  ]
  properties: {
    originGroup: {
      id: group.id
    }
    patternsToMatch: [
      '/models/*'
    ]
    supportedProtocols: [
      'Https'
    ]
    httpsRedirect: 'Disabled'
    forwardingProtocol: 'HttpsOnly'
    linkToDefaultDomain: 'Enabled'
    cacheConfiguration: {
      queryStringCachingBehavior: 'UseQueryString'
    }
  }
}

output store string = 'azblob://${account}/models'
output origin string = 'https://${endpoint.properties.hostName}/models'
